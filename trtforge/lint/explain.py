"""The manual page of a code, whether an error's or a lint rule's."""

from __future__ import annotations

import difflib
import inspect

from trtforge.errors import TrtforgeError, catalogue
from trtforge.errors.usage import UnknownCode
from trtforge.lint.rule import Rule
from trtforge.lint.run import rules

DIGITS = str.maketrans("OIL", "011")
"""Letters that are read as digits."""


def explain(code: str) -> str:
    """The page of an error or a rule; upper or lower case. Raises UnknownCode (USE101)."""
    wanted = code.strip().upper()
    errors = catalogue()
    checks = {rule.code: rule for rule in rules()}
    if wanted in checks:
        return _rule_page(checks[wanted])
    if wanted in errors:
        return _error_page(errors[wanted])
    known = sorted([*errors, *checks])
    digits = wanted[:3] + wanted[3:].translate(DIGITS)
    near = [name for name in known if wanted and name.startswith(digits)][:3] or difflib.get_close_matches(
        wanted, known, n=3, cutoff=0.6
    )
    raise UnknownCode(
        f"there is no error and no lint rule with the code `{code}`",
        why=f"did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else "",
        next=f"trtforge explain {near[0]}" if near else "trtforge explain",
    )


def _rule_page(rule: Rule) -> str:
    return f"{rule.code}  {rule.title}\nlint rule; usually {_article(rule.severity)}\n\n{rule.page()}\n"


def _error_page(error: type[TrtforgeError]) -> str:
    body = inspect.cleandoc(error.__doc__ or "").replace("``", "`")
    return f"{error.code}  {error.title}\nerror; the command ends with exit code {error('').exit_code}\n\n{body}\n"


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
