"""What TensorRT and TensorRT-RTX have in common: one compiler process, one configuration, one way to run a plan.

The two modules have the same classes and differ in which of them, and which methods, are there. So code here takes the
module as an argument and asks it, never its version.
"""
