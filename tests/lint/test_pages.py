"""Every code has a page, rules and errors alike, and a wrong code gets a suggestion."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys

import pytest

from trtforge import errors
from trtforge.errors import catalogue
from trtforge.errors.usage import UnknownCode
from trtforge.lint.explain import explain
from trtforge.lint.rule import SECTIONS, SEVERITIES, Rule, some
from trtforge.lint.run import rules


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.code)
def test_rule_has_a_whole_page(rule: Rule) -> None:
    page = explain(rule.code)
    assert page.startswith(f"{rule.code}  {rule.title}\n")
    headings = re.findall(r"^(\w[\w ]+)$", rule.page(), flags=re.MULTILINE)
    assert tuple(headings) == SECTIONS
    bodies = re.split(r"^\w[\w ]+$", rule.page(), flags=re.MULTILINE)[1:]
    assert all(len(body.strip()) > 30 for body in bodies)
    assert rule.severity in SEVERITIES
    assert max(map(len, page.splitlines())) <= 120


def test_no_family_of_errors_is_forgotten() -> None:
    """A module that the package does not import is in the catalogue only of a process that met one of its errors."""
    modules = {module.name for module in pkgutil.iter_modules(errors.__path__)} - {"base"}
    told = subprocess.run(
        [sys.executable, "-c", "import sys, trtforge.errors; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {name for name in modules if f"trtforge.errors.{name}" in told} == modules
    assert modules <= set(errors.__all__)


@pytest.mark.parametrize("code", catalogue())
def test_error_has_a_page(code: str) -> None:
    page = explain(code)
    title, kind, _, *body = page.splitlines()
    assert title == f"{code}  {catalogue()[code].title}"
    assert re.fullmatch(r"error; the command ends with exit code \d+", kind)
    assert len(" ".join(body)) > 80, "say what happened, why it usually does, and what to do"


def test_rule_codes_are_unique_and_no_error_has_them() -> None:
    codes = [rule.code for rule in rules()]
    assert codes == sorted(set(codes))
    assert not {code[:3] for code in codes} & {code[:3] for code in catalogue()}
    assert all(re.fullmatch(r"(GRF|QNT|RTX|PLG|DLA)1\d\d", code) for code in codes)


def test_each_rule_is_alone_in_its_file() -> None:
    modules = [type(rule).__module__ for rule in rules()]
    assert len(set(modules)) == len(modules)


def test_lower_case_and_spaces_are_forgiven() -> None:
    assert explain(" dla101 ") == explain("DLA101")


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("DLA1O1", "DLA101"),
        ("DLA11O", "DLA110"),
        ("DLA10", "DLA101"),
        ("rtx", "RTX101"),
        ("RPC201", "RCP201"),
        ("ENV1O1", "ENV101"),
    ],
)
def test_unknown_code_suggests(asked: str, near: str) -> None:
    with pytest.raises(UnknownCode) as caught:
        explain(asked)
    assert near in caught.value.why
    assert caught.value.next.startswith("trtforge explain ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("asked", ["", "?", "x" * 1000])
def test_nonsense_is_the_same_error(asked: str) -> None:
    with pytest.raises(UnknownCode) as caught:
        explain(asked)
    assert caught.value.next == "trtforge explain"


def test_explaining_imports_nothing_heavy() -> None:
    script = (
        "import sys; from trtforge.lint.explain import explain; explain('DLA101');"
        "print([m for m in ('onnx','numpy','pydantic','ruamel.yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_some() -> None:
    assert some(["a"]) == "a"
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
