"""What a bad recipe is told: the code, the exact place, the reason, and an edit that helps."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtforge.errors.base import TrtforgeError, catalogue
from trtforge.errors.recipe import InvalidRecipe
from trtforge.recipe.models import Recipe
from trtforge.recipe.problems import PATTERNS


def check(error: TrtforgeError, code: str, where: str, *words: str) -> None:
    text = str(error)
    assert error.code == code, text
    assert error.where.removeprefix("recipes/") == where, text
    for word in words:
        assert word in text
    assert error.next, "every problem says what to do"


# changes to the good recipe, code, place, words of the message
VALUES: list[tuple[list[tuple[str, str]], str, str, list[str]]] = [
    (
        [("precision", "precison")],
        "RCP111",
        "r.yaml:11:5",
        ["did you mean `precision`?", "allowed there: builder, calibration"],
    ),
    ([("target", "precision: int8\ntarget")], "RCP111", "r.yaml:1:1", ["`precision` belongs in an engine"]),
    ([("target", "zzz: 1\ntarget")], "RCP111", "r.yaml:1:1", ["delete it"]),
    (
        [("kind: image, resize: 256, crop: [224, 224]", "kind: array, mean: 1")],
        "RCP111",
        "r.yaml:10:35",
        ["allowed there: kind\n", "goes with `kind: image`"],
    ),
    ([("target: host\n", "")], "RCP112", "r.yaml:1:1", ["no `target`", "base for others"]),
    ([("      onnx: m.onnx\n", "      sha256: " + "a" * 64 + "\n")], "RCP112", "r.yaml:5:5", ["no `onnx`"]),
    ([("kind: image, ", "")], "RCP112", "r.yaml:10:9", ["no `kind`"]),
    (
        [("onnxruntime", "onnxruntme")],
        "RCP113",
        "r.yaml:2:10",
        ["expected `onnxruntime`", "did you mean `onnxruntime`?"],
    ),
    ([("onnxruntime", "tensorrt\ntensorrt: 10.10")], "RCP113", "r.yaml:3:11", ['put it in quotes: "10.10"']),
    ([("onnxruntime", 'tensorrt\ntensorrt: "ten"'), ("host", "a30")], "RCP113", "r.yaml:3:11", ["expected a version"]),
    ([("[1, 3,", "[1, -3,")], "RCP113", "r.yaml:9:20", ["shape.1", "above 0", "the number -3"]),
    ([("[1, 3, 224, 224]", "[1, 3, wide, 224]")], "RCP113", "r.yaml:9:23", ["a whole number", 'the text "wide"']),
    ([("[1, 3, 224, 224]", "{a: 1}")], "RCP113", "r.yaml:9:16", ["expected a list, found a mapping"]),
    ([("256", "big")], "RCP113", "r.yaml:10:43", ["a whole number or a list of 2,"]),
    ([("crop: [224, 224]", "crop: 224")], "RCP113", "r.yaml:10:54", ["a list of 2,", "write 2 values: `[224, ...]`"]),
    ([("256,", "256, mean: [0.50],")], "RCP113", "r.yaml:10:54", ["a number or 3 values", "write `0.50`"]),
    ([("256,", "256, std: -1,")], "RCP113", "r.yaml:10:53", ["above 0 or a list of 3, found the number -1"]),
    ([("256,", "256, mean: [1, a, 3],")], "RCP113", "r.yaml:10:58", ["mean.1", "expected a number, found"]),
    ([("crop: [224, 224]", "crop: [224]")], "RCP113", "r.yaml:10:54", ["expected 2 values, found the list [224]"]),
    ([("256,", "256, mean: [1, 2, 3, 4],")], "RCP113", "r.yaml:10:54", ["expected a number or 3 values"]),
    ([("256,", "256, std: [1, 0, 1],")], "RCP113", "r.yaml:10:57", ["above 0"]),
    ([("kind: image", "kind: picture")], "RCP113", "r.yaml:10:28", ["expected `image` or `array`"]),
    ([("0.99", ".nan")], "RCP113", "r.yaml:13:37", ["a finite number"]),
    ([("m.onnx", '""')], "RCP113", "r.yaml:6:13", ["some text"]),
    ([("[1, 3,", "[true, 3,")], "RCP113", "r.yaml:9:17", ["shape.0", "a whole number, found the value true"]),
    ([("256,", "256, std: [1, true, 1],")], "RCP113", "r.yaml:10:57", ["a number, found the value true"]),
    ([("0.99", "99")], "RCP117", "r.yaml:13:5", ["`metric: cosine` never is", "0.99"]),
    ([("at_least: 0.99", "metric: top1, at_least: 50")], "RCP117", "r.yaml:13:5", ["`metric: top1` never is"]),
    ([("resize: 256", "resize: 200")], "RCP117", "r.yaml:10:54", ["larger than the resized image", "`resize` is 200"]),
    ([("resize: 256", "resize: [256, 200]")], "RCP117", "r.yaml:10:61", ["larger than", "[256, 200]"]),
    ([("precision", "workspace: 0GiB\n    precision")], "RCP113", "r.yaml:11:16", ["a size such as"]),
    ([("precision", "dla: {sram: 3MiB}\n    precision")], "RCP117", "r.yaml:11:5", ["power of two"]),
    ([("precision", "dla: {sram: 2KiB}\n    precision")], "RCP117", "r.yaml:11:5", ["at least 4KiB"]),
    ([("m.onnx", "m.onnx\n      sha256: abc")], "RCP113", "r.yaml:7:15", ["64 lower-case hexadecimal digits"]),
    ([("  r50:", '  "a b":')], "RCP113", "r.yaml:4:3", ["no name for an engine"]),
    ([("set: cal.yaml", "set: cal.yaml, samples: '${N}'")], "RCP113", "r.yaml:12:43", ["(from `${N}`)"]),
    ([("m.onnx", "package:thing")], "RCP113", "r.yaml:6:13", ["package:DISTRIBUTION/path"]),
    ([("m.onnx", "package:thing/../../m.onnx")], "RCP113", "r.yaml:6:13", ["no file of a package"]),
    ([("host", "a3")], "RCP201", "r.yaml:1:9", ["a30"]),
    ([("host", "7")], "RCP113", "r.yaml:1:9", ["expected text"]),
    ([("m.onnx", "../../m.onnx")], "RCP115", "r.yaml:6:13", ["leaves the project", "${MODELS}"]),
    ([("cal.yaml", "../a/../../c.yaml")], "RCP115", "r.yaml:12:24", ["leaves the project"]),
    ([("m.onnx", "~/m.onnx")], "RCP115", "r.yaml:6:13", ["${HOME}/m.onnx"]),
    ([("set: cal.yaml", "scales: /data/s.json")], "RCP115", "r.yaml:12:27", ["absolute"]),
    ([("m.onnx", "${MODELS}/m.onnx")], "RCP116", "r.yaml:6:13", ["variable MODELS is not set", "${MODELS:-...}"]),
    ([("m.onnx", "${MODELS/m.onnx")], "RCP113", "r.yaml:6:13", ["close the brace"]),
    ([("m.onnx", "https://example.org/m.onnx")], "RCP117", "r.yaml:5:5", ["needs `sha256`"]),
    ([("m.onnx", "http://example.org/m.onnx\n      sha256: " + "a" * 64)], "RCP133", "r.yaml:6:13", ["use https"]),
    ([("m.onnx", "s3://bucket/m.onnx")], "RCP133", "r.yaml:6:13", ["`s3` is not a scheme"]),
    (
        [("m.onnx", "https://me:pw@example.org/m.onnx\n      sha256: " + "a" * 64)],
        "RCP133",
        "r.yaml:6:13",
        ["password"],
    ),
    ([("m.onnx", "https://[::1/m.onnx\n      sha256: " + "a" * 64)], "RCP133", "r.yaml:6:13", ["complete URL"]),
    ([("set: cal", "scales: s.json, set: cal")], "RCP117", "r.yaml:12:5", ["exactly one", "`scales` is said at"]),
    ([("    calibration: {set: cal.yaml}\n", "")], "RCP117", "r.yaml:4:3", ["needs `calibration`", "precision: fp16"]),
    ([("224]}", "200]}")], "RCP117", "r.yaml:9:16", ["[N, 3, 224, 200]"]),
    ([("crop", "layout: nhwc, crop")], "RCP117", "r.yaml:9:16", ["[N, 224, 224, 3]"]),
    ([("[1, 3, 224", "[1, 1, 224")], "RCP117", "r.yaml:9:16", ["[N, 3, 224, 224]", "write `channels: gray` in"]),
    ([("[1, 3, 224, 224]", "[8, 224, 224, 3]")], "RCP117", "r.yaml:9:16", ["write `layout: nhwc` in"]),
    (
        [("crop", "channels: gray, crop"), ("[1, 3, 224, 224]", "[1, 224, 224, 1]")],
        "RCP117",
        "r.yaml:9:16",
        ["`channels: gray` gives [N, 1, 224, 224]", "write `layout: nhwc` in"],
    ),
    ([("crop", "channels: gray, crop")], "RCP117", "r.yaml:9:16", ["[N, 1, 224, 224]", "write `channels: rgb` in"]),
    (
        [("crop", "channels: gray, mean: [1, 2, 3], crop"), ("[1, 3,", "[1, 1,")],
        "RCP117",
        "r.yaml:10:9",
        ["`mean` has three values and `channels: gray` one", "`mean` is said at", "write one number"],
    ),
    (
        [("{kind: image, resize: 256, crop: [224, 224]}", "{kind: volume, spaceing: [1, 1, 1]}")],
        "RCP111",
        "r.yaml:10:36",
        ["allowed there: clip, kind, mean", "did you mean `spacing`?"],
    ),
    ([("      x:", "      array:"), ("crop:", "layuot: nchw, crop:")], "RCP111", "r.yaml:10:48", ["mean `layout`?"]),
    ([("host", 'host\ntensorrt: "10.3"')], "RCP117", "r.yaml:2:11", ["for backend `tensorrt` only"]),
    ([("precision", "dla: {core: 1}\n    precision")], "RCP117", "r.yaml:11:5", ["no DLA", "dla: null"]),
    ([("shape", "format: dla_hwc4\n        shape")], "RCP117", "r.yaml:9:17", ["DLA format"]),
    ([("host", "a30")], "RCP118", "r.yaml:2:10", ["`target: host`"]),
    ([("int8", "fp16")], "RCP118", "r.yaml:11:16", ["no fp16 engine for a CPU", "`precision: fp32`"]),
    ([("onnxruntime", "tensorrt")], "RCP118", "r.yaml:2:10", ["`backend: onnxruntime`"]),
    ([("onnxruntime", "tensorrt_rtx"), ("host", "t4")], "RCP118", "r.yaml:11:16", ["SM 7.5", "in float"]),
    ([("onnxruntime", "tensorrt_rtx"), ("host", "orin-agx-64gb/gpu")], "RCP118", "r.yaml:2:10", ["discrete GPUs only"]),
    ([("onnxruntime", "tensorrt_rtx"), ("host", "h100-sxm-80gb")], "RCP118", "r.yaml:2:10", ["has SM 9.0"]),
    (
        [("onnxruntime", 'tensorrt\ntensorrt: "10.13"'), ("host", "orin-agx-64gb/dla")],
        "RCP117",
        "r.yaml:3:11",
        ["cannot use the DLA"],
    ),
    (
        [("onnxruntime", 'tensorrt\ntensorrt: "10.13"'), ("host", "xavier-agx/dla")],
        "RCP113",
        "r.yaml:3:11",
        ["8.5.2 is the last release"],
    ),
    (
        [("onnxruntime", 'tensorrt\ntensorrt: "7.2"'), ("host", "orin-nx-8gb/gpu")],
        "RCP113",
        "r.yaml:3:11",
        ["there is no TensorRT 7.2", "first JetPack for orin-nx-8gb brought TensorRT 8.5.2", "dpkg -l"],
    ),
    (
        [("onnxruntime", "tensorrt"), ("host", "orin-nx-8gb/dla"), ("precision", "dla: {core: 1}\n    precision")],
        "RCP113",
        "r.yaml:11:17",
        ["no DLA core 1"],
    ),
    ([("precision", "builder: {direct_io: true}\n    precision")], "RCP117", "r.yaml:11:5", ["for backend `tensorrt`"]),
    (
        [("precision", "outputs: {y: {dtype: int8}}\n    precision")],
        "RCP117",
        "r.yaml:11:5",
        ["for backend `tensorrt`"],
    ),
    ([("precision", "builder: {optimization_level: 6}\n    precision")], "RCP113", "r.yaml:11:35", ["at most 5"]),
    (
        [("shape", "range: {min: [1, 3, 224, 224], max: [8, 3, 224, 224]}\n        shape")],
        "RCP117",
        "r.yaml:9:9",
        ["for backend `tensorrt`"],
    ),
    (
        [("shape", "range: {min: [2, 3, 224, 224], max: [8, 3, 224, 224]}\n        shape")],
        "RCP117",
        "r.yaml:8:7",
        ["min <= shape <= max"],
    ),
    (
        [("shape", "range: {min: [1], max: [8, 3, 224, 224]}\n        shape")],
        "RCP117",
        "r.yaml:8:7",
        ["as many sizes as `shape`, 4"],
    ),
    (
        [
            ("onnxruntime", "tensorrt"),
            ("host", "orin-agx-64gb/dla"),
            ("shape", "range: {min: [1, 3, 224, 224], max: [8, 3, 224, 224]}\n        shape"),
        ],
        "RCP117",
        "r.yaml:9:9",
        ["a DLA has no open sizes"],
    ),
    (
        [
            ("onnxruntime", "tensorrt"),
            ("host", "orin-agx-64gb/gpu"),
            ("precision", "builder: {hardware_compatibility: ampere_plus}\n    precision"),
        ],
        "RCP117",
        "r.yaml:11:15",
        ["for GPU cards"],
    ),
    ([("precision", "dla: {standalone: true}\n    precision")], "RCP117", "r.yaml:11:5", ["no GPU to fall back to"]),
    (
        [
            ("onnxruntime", "tensorrt"),
            ("host", "orin-agx-64gb/dla"),
            ("shape", "dtype: int8\n        format: dla_hwc4\n        shape"),
            ("precision", "dla: {standalone: true, gpu_fallback: false}\n    precision"),
        ],
        "RCP117",
        "r.yaml:13:11",
        ["wants `outputs` stated"],
    ),
    (
        [
            ("onnxruntime", "tensorrt"),
            ("host", "orin-agx-64gb/dla"),
            ("precision", "outputs: {y: {dtype: int8, format: chw32}}\n    precision"),
            ("precision", "dla: {standalone: true, gpu_fallback: false}\n    precision"),
        ],
        "RCP117",
        "r.yaml:8:7",
        ["not in a form that a standalone loadable takes", "it is float32 in linear"],
    ),
    (
        [
            ("onnxruntime", "tensorrt"),
            ("host", "a30"),
            ("shape", "range: {min: [1, 3, 224, 224], max: [8, 3, 224, 224]}\n        shape"),
            ("precision", "surgery: [res2]\n    precision"),
        ],
        "RCP117",
        "r.yaml:9:9",
        ["the plugin `res2` do not go together"],
    ),
    ([("precision", "dla: {local_dram: 3GiB}\n    precision")], "RCP117", "r.yaml:11:5", ["not a power of two"]),
    (
        [("onnxruntime", "tensorrt"), ("host", "orin-agx-64gb/dla"), ("int8", "fp32")],
        "RCP117",
        "r.yaml:11:16",
        ["FP16"],
    ),
]


@pytest.mark.parametrize(
    ("changes", "code", "where", "words"), VALUES, ids=[f"{c[1]}-{c[0][-1][1]!r}"[:60] for c in VALUES]
)
def test_one_wrong_value(project: Any, changes: list[tuple[str, str]], code: str, where: str, words: list[str]) -> None:
    project.bend(*changes)
    check(project.fails(N="ten"), code, where, *words)


FILES: list[tuple[str, str | bytes, str, str, list[str]]] = [
    ("empty", "# nothing\n", "RCP103", "r.yaml:1:1", ["it is empty"]),
    ("list", "- a\n", "RCP103", "r.yaml:1:1", ["it holds the list [a]"]),
    ("word", "target\n", "RCP103", "r.yaml:1:1", ['the text "target"']),
    ("tab", "a:\n\tb: 1\n", "RCP102", "r.yaml:2:1", ["\n    \tb: 1\n    ^", "indent with spaces"]),
    ("unclosed bracket", "a: [1, 2\nb: 3\n", "RCP102", "r.yaml:2:2", ["begun at line 1, column 4"]),
    ("unclosed quote", 'a: "x\nb: 1\n', "RCP102", "r.yaml:1:4", ['a: "x\n       ^']),
    ("indentation", "a:\n   b: 1\n  c: 1\n", "RCP102", "r.yaml:3:3", ["line it up"]),
    ("two colons", "a: b: c\n", "RCP102", "r.yaml:1:5", ["needs quotes"]),
    ("bare variable in braces", "a: {b: ${C}/x}\n", "RCP102", "r.yaml:1:9", ['"${VAR}/model.onnx"']),
    ("undefined alias", "a: *x\n", "RCP102", "r.yaml:1:4", ["define the anchor"]),
    ("two documents", "a: 1\n---\nb: 1\n", "RCP102", "r.yaml:2:1", ["one document"]),
    ("python tag", "a: !!python/object/apply:os.getcwd []\n", "RCP102", "r.yaml:1:4", ["only plain YAML is read"]),
    ("own tag", "a: !env HOME\n", "RCP102", "r.yaml:1:4", ["`!env`"]),
    ("bad number", "a: !!int x\n", "RCP102", "r.yaml:1:4", ["no valid `int`"]),
    ("long number", f"a: {'9' * 5000}\n", "RCP102", "r.yaml:1:4", ["no valid `int`"]),
    ("list as key", "? [a]\n: 1\n", "RCP102", "r.yaml:1:3", ["single word"]),
    ("merge of a number", "a: {<<: 3}\n", "RCP102", "r.yaml:1:5", ["takes a mapping"]),
    ("control character", "a: \x07\n", "RCP102", "r.yaml:1:4", ["U+0007"]),
    ("directive", "%YAML 3.0\n---\na: 1\n", "RCP102", "r.yaml:1:1", ["version"]),
    ("binary", b"\x08\x07\x12\x0bonnx\xff\xfe\n" * 9, "RCP102", "r.yaml:1", ["not a text file", "0xff"]),
    ("duplicate", "a: 1\nb: 2\na: 3\n", "RCP104", "r.yaml:3:1", ["first at recipes/r.yaml:1:1"]),
    ("duplicate in braces", "a: {b: 1, b: 2}\n", "RCP104", "r.yaml:1:11", ["`b` is given twice"]),
    ("deep", "a: " + "[" * 9000 + "\n", "RCP105", "r.yaml:1:53", ["50 levels"]),
    ("alias in itself", "a: &a {b: *a}\n", "RCP105", "r.yaml:1:4", ["contains itself"]),
    ("large", "a: " + "x" * (1 << 20), "RCP105", "r.yaml", ["bytes"]),
    (
        "alias bomb",
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]\n" for p, n in itertools.pairwise("abcdefghi")),
        "RCP105",
        "r.yaml:5:1",
        ["10000"],
    ),
    ("extends itself", "extends: r.yaml\n", "RCP106", "r.yaml:1:10", ["recipes/r.yaml -> recipes/r.yaml"]),
    (
        "extends in a circle",
        "extends: one.yaml\n",
        "RCP106",
        "two.yaml:1:10",
        ["one.yaml -> recipes/two.yaml -> recipes/one"],
    ),
    ("extends nothing", "extends: basis.yaml\n", "RCP107", "r.yaml:1:10", ["did you mean recipes/base.yaml?"]),
    ("extends a folder", "extends: .\n", "RCP107", "r.yaml:1:10", ["it is a folder"]),
    ("extends absolute", "extends: /etc/passwd\n", "RCP107", "r.yaml:1:10", ["no absolute path"]),
    ("extends variable", "extends: ${BASE}\n", "RCP107", "r.yaml:1:10", ["no ${VAR}"]),
    ("extends outside", "extends: ../../base.yaml\n", "RCP115", "r.yaml:1:10", ["leaves the project"]),
    ("extends a list", "extends: [a, b]\n", "RCP113", "r.yaml:1:10", ["found the list [a, b]"]),
    (
        "broken base",
        "extends: broken.yaml\n",
        "RCP102",
        "broken.yaml:1:5",
        ["a: [\n        ^", "broken.yaml is not valid YAML"],
    ),
]


@pytest.mark.parametrize(("text", "code", "where", "words"), [case[1:] for case in FILES], ids=[c[0] for c in FILES])
def test_one_bad_file(project: Any, text: str | bytes, code: str, where: str, words: list[str]) -> None:
    project.write("base.yaml", project.good)
    project.write("one.yaml", "extends: two.yaml\n")
    project.write("two.yaml", "extends: one.yaml\n")
    project.write("broken.yaml", "a: [\n")
    project.write("r.yaml", text)
    check(project.fails(), code, where, *words)


OVERRIDES = [
    ("precision", "RCP120", "character 10, found the end"),
    ("=3", "RCP120", "a key at character 1"),
    ("a..b=3", "RCP120", "a key at character 3"),
    ("engines.r50.=3", "RCP120", "a key at character 13"),
    ("a b=3", "RCP120", "`.` or `=` at character 2, found ' '"),
    ('engines."r50=3', "RCP120", "a key at character 9"),
    ("extends=base.yaml", "RCP120", "after the files were read"),
    ("engines.r50.inputs.x.shape=[1, 3", "RCP102", "end of the text"),
    ("engines.r5.precision=fp16", "RCP121", "did you mean `r50`?"),
    ("engines.r50.precison=fp16", "RCP111", "did you mean `precision`?"),
    ("engines.r50.precision=fp1", "RCP113", "did you mean `fp16`?"),
    ("engines.r50.model.onnx=${NOPE}", "RCP116", "NOPE"),
    ("engines.r50.model.onnx=../../m.onnx", "RCP115", "leaves the project"),
    ("target=a3", "RCP201", "a30"),
]


@pytest.mark.parametrize(("override", "code", "word"), OVERRIDES, ids=[case[0] for case in OVERRIDES])
def test_bad_override(project: Any, override: str, code: str, word: str) -> None:
    check(project.fails(override), code, f"--set {override}", word)


def test_missing_recipe(project: Any) -> None:
    project.write("r.yaml", project.good).rename(project.root / "recipes" / "resnet.yaml")
    check(project.fails(), "RCP101", "r.yaml", "no such file", "resnet.yaml")
    (project.root / "recipes" / "r.yaml").mkdir()
    check(project.fails(), "RCP101", "r.yaml", "it is a folder")


def test_all_problems_are_listed_in_the_order_of_the_file(project: Any) -> None:
    project.bend(
        ("host", "hots"),
        ("onnxruntime", "onnx"),
        ("m.onnx", "${MODELS}/m.onnx"),
        ("256", "-1"),
        ("precision", "precison"),
        ("cal.yaml", "../../cal.yaml"),
    )
    error = project.fails()
    assert isinstance(error, InvalidRecipe)
    assert error.what == "recipes/r.yaml has 6 problems" and error.where == "recipes/r.yaml:1:9"
    assert [problem.code for problem in error.problems] == ["RCP201", "RCP113", "RCP116", "RCP113", "RCP111", "RCP115"]
    lines = [int(problem.where.split(":")[1]) for problem in error.problems]
    assert lines == sorted(lines)
    for number, problem in enumerate(error.problems, start=1):
        assert f"{number}. {problem.code} {problem.what}" in error.why
    assert [entry["code"] for entry in error.to_json()["problems"]] == [p.code for p in error.problems]
    copy = pickle.loads(pickle.dumps(error))
    assert copy.to_json() == error.to_json()


def test_contradictions_are_listed_together(project: Any) -> None:
    project.bend(("onnxruntime", 'onnxruntime\ntensorrt: "10.3"'), ("host", "a30"), ("[1, 3, 224", "[1, 3, 225"))
    assert [problem.code for problem in project.fails().problems] == ["RCP118", "RCP117", "RCP117"]


def test_long_lists_end(project: Any) -> None:
    project.bend(("precision:", "".join(f"k{n}: 1\n    " for n in range(25)) + "precision:"))
    error = project.fails()
    assert len(error.problems) == 25 and "10. RCP111" in error.why and "11. " not in error.why
    assert error.why.endswith("and 15 more")


def test_a_problem_in_a_base_is_shown_in_the_base(project: Any) -> None:
    project.write("base.yaml", project.good.replace("int8", "int4"))
    project.write("r.yaml", "extends: base.yaml\n")
    check(project.fails(), "RCP113", "base.yaml:11:16", "expected `fp32`, `fp16` or `int8`")


def test_every_pattern_of_the_models_has_words() -> None:
    patterns: set[str] = set()

    def collect(schema: Any) -> None:
        if isinstance(schema, dict):
            patterns.update([schema["pattern"]] if isinstance(schema.get("pattern"), str) else [])
            patterns.update(schema.get("patternProperties", {}))
        for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            collect(inner)

    collect(Recipe.model_json_schema())
    assert patterns == set(PATTERNS)


def test_every_recipe_error_has_a_manual_page() -> None:
    for code, error in catalogue().items():
        if code.startswith("RCP"):
            assert error.title and len((error.__doc__ or "").split()) > 20, code


_SNIPPETS = [
    "\t",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a ",
    "<<: ",
    "!!str ",
    "!x ",
    "%",
    '"',
    "'",
    "null",
    "${",
    "${V}",
]
_SNIPPETS += [
    "\n",
    "  ",
    "#",
    "|",
    ">",
    "?",
    "0",
    "-1",
    ".nan",
    "1e999",
    "true",
    "\x00",
    "\ud7ff",
    "---\n",
    "...\n",
    "~",
    "/",
]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 12), st.sampled_from(_SNIPPETS)), min_size=1, max_size=4))
def test_damaged_recipes_load_or_end_in_a_recipe_error(project: Any, edits: list[tuple[int, int, str]]) -> None:
    text = project.good
    for position, drop, snippet in edits:
        text = text[:position] + snippet + text[position + drop :]
    project.write("r.yaml", text)
    try:
        project.load()
    except TrtforgeError as error:
        assert error.code.startswith("RCP")
        assert error.where and error.next and str(error)
