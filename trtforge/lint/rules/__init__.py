"""The rules, one a file; `trtforge.lint.run` lists them."""
