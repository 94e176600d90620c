"""A TensorRT that builds and runs nothing and writes down what it is asked, made of the real bindings' signatures.

Only what cannot be had without the libraries is faked: `Builder`, `OnnxParser`, `Runtime` and all that comes from them.
Every name must be in the real class, every call must fit one of its signatures in number, names and types, every
property that is set must be writable; else the test fails. Enumerations, calibrators and loggers are real.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

STARTS = ("Builder", "OnnxParser", "Runtime")
"""Classes that a program makes itself; the others are given by methods of these."""


@dataclass
class Recorder:
    """``calls``: (class.name, arguments) in order; a property that is set is "class.name=" with its value.

    ``answers``: class.name -> what it gives, or a function of (object, *arguments). Without one: True, 0, "" or an
    object of the class that the signature names.
    """

    trt: Any
    answers: Mapping[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]


class Module:
    """Stands for the module `tensorrt`."""

    def __init__(self, trt: Any, answers: Mapping[str, Any] | None = None) -> None:
        self.recorder = Recorder(trt, answers or {})

    def __getattr__(self, name: str) -> Any:
        trt = self.recorder.trt
        if name in STARTS:
            return lambda *arguments: Object._made(getattr(trt, name), self.recorder, arguments)
        if name == "init_libnvinfer_plugins":
            return lambda logger, namespace: self.recorder.answers.get(name, True)
        return getattr(trt, name)


class Object:
    """An instance of a real class that was never made."""

    def __init__(self, kind: type, recorder: Recorder) -> None:
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_recorder", recorder)
        object.__setattr__(self, "_set", {})

    @classmethod
    def _made(cls, kind: type, recorder: Recorder, arguments: tuple[Any, ...]) -> Object:
        made = cls(kind, recorder)
        fit(recorder.trt, f"{kind.__name__}.__init__", kind.__init__.__doc__ or "", (made, *arguments), {})
        return made

    def __getattr__(self, name: str) -> Any:
        kind = self._kind
        label, member = f"{kind.__name__}.{name}", getattr(kind, name)  # AttributeError as of the real class
        if not isinstance(member, property):
            return self._method(label, member)
        if name in self._set:
            return self._set[name]
        return self._answer(label, returned(member.fget.__doc__ or ""), ())

    def __setattr__(self, name: str, value: Any) -> None:
        member = getattr(self._kind, name)
        assert isinstance(member, property) and member.fset is not None, f"{self._kind.__name__}.{name} is not set"
        wanted = returned(member.fget.__doc__ or "")
        assert is_a(self._recorder.trt, value, wanted), f"{self._kind.__name__}.{name} is {wanted}, not {value!r}"
        self._set[name] = value
        self._recorder.calls.append((f"{self._kind.__name__}.{name}=", (value,)))

    def _method(self, label: str, member: Any) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            result = fit(self._recorder.trt, label, member.__doc__ or "", (self, *arguments), named)
            self._recorder.calls.append((label, (*arguments, *named.values())))
            return self._answer(label, result, (*arguments, *named.values()))

        return call

    def _answer(self, label: str, kind: str, arguments: tuple[Any, ...]) -> Any:
        answers, trt = self._recorder.answers, self._recorder.trt
        if label in answers:
            answer = answers[label]
            return answer(self, *arguments) if callable(answer) else answer
        plain = {"bool": True, "int": 0, "str": "", "None": None, "list[str]": [], "List[str]": []}
        if kind in plain:
            return plain[kind]
        name = kind.rpartition(".")[2].rpartition("::")[2]
        found = getattr(trt, name, getattr(trt, name.removeprefix("I"), None))
        assert isinstance(found, type), f"{label} gives {kind}: say what it answers"
        members = getattr(found, "__members__", None)
        return next(iter(members.values())) if members else Object(found, self._recorder)


SIGNATURE = re.compile(r"^(?:\d+\. )?(\w+)\((.*)\) -> (.+)$", re.MULTILINE)


def fit(trt: Any, label: str, doc: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    """The return type of the signature that the call fits; an AssertionError when it fits none."""
    signatures = [match for match in SIGNATURE.finditer(doc) if match[1] == label.rpartition(".")[2]]
    assert signatures, f"{label} has no signature in its documentation: {doc[:200]!r}"
    problems = []
    for match in signatures:
        problem = _misfit(trt, [each.split(":", 1) for each in _split(match[2])], arguments, named)
        if not problem:
            return match[3].strip()
        problems.append(f"({match[2]}): {problem}")
    raise AssertionError(f"{label} takes " + "; ".join(problems))


def _misfit(trt: Any, parameters: list[list[str]], arguments: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    names = [parameter[0].split("=")[0].strip() for parameter in parameters]
    kinds = [parameter[1].split("=")[0].strip() if len(parameter) > 1 else "object" for parameter in parameters]
    optional = ["=" in "".join(parameter) for parameter in parameters]
    given = dict(zip(names, arguments, strict=False)) | dict(named)
    if len(arguments) > len(names) or set(named) - set(names):
        return f"{len(arguments)} arguments and {sorted(named)} were given"
    if missing := [name for name, free in zip(names, optional, strict=True) if not free and name not in given]:
        return f"{missing[0]} is not given"
    for name, kind in zip(names, kinds, strict=True):
        if name in given and not is_a(trt, given[name], kind):
            return f"{name} is {given[name]!r}"
    return ""


def is_a(trt: Any, value: Any, kind: str) -> bool:
    """Does a value fit a type as pybind11 spells it? What is not known here fits."""
    last = kind.rpartition(".")[2].rpartition("::")[2]
    if last in ("int", "SupportsInt"):
        return isinstance(value, int) and not isinstance(value, bool)
    if last in ("bool", "str", "float"):
        return isinstance(value, {"bool": bool, "str": str, "float": (int, float)}[last])
    if last in ("buffer", "Buffer"):
        return isinstance(value, (bytes, bytearray, memoryview))
    if last in ("Dims", "tuple", "list"):
        return isinstance(value, (tuple, list, trt.Dims)) and all(isinstance(size, int) for size in value)
    wanted = getattr(trt, last, None)
    if not isinstance(wanted, type):
        return True
    if isinstance(value, Object):
        return issubclass(value._kind, wanted)
    return isinstance(value, wanted)


def returned(doc: str) -> str:
    """The type of a property, by the documentation of its getter."""
    return doc.split("\n", maxsplit=1)[0].rpartition("->")[2].strip() or "object"


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += {"[": 1, "(": 1, "<": 1, "]": -1, ")": -1, ">": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
