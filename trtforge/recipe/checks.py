"""What a recipe may not say although each key is right by itself: target, backend and device must fit together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, get_args

from trtforge.errors.base import TrtforgeError
from trtforge.errors.recipe import BackendCannotTarget, Contradiction, WrongValue
from trtforge.errors.targets import UnknownTarget
from trtforge.recipe.document import KeyPath, Node, Where, dotted
from trtforge.recipe.models import Builder, Engine, InputSpec, OutputSpec, PluginName, Recipe
from trtforge.recipe.preprocess import ImagePreprocess
from trtforge.recipe.problems import node_at

if TYPE_CHECKING:
    from trtforge.targets.model import Target

RTX_SMS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities TensorRT-RTX compiles for."""

RTX_INT8_SMS = ("8.0", "8.6", "8.9", "12.0")
"""Those whose INT8 convolutions are INT8 in the built plan."""

_VERSION = r"\d+(\.\d+){0,3}"
_EXACT = re.compile(r"\d+(\.\d+){1,3}")
_RANGE = re.compile(rf"(>=|<=|==|>|<|~=)\s*{_VERSION}(\s*,\s*(>=|<=|==|>|<|~=)\s*{_VERSION})*")


def find_target(tree: Node) -> Target:
    """The target the recipe names. Raises UnknownTarget with the place."""
    from trtforge.targets.load import get

    node = node_at(tree, ("target",))
    try:
        return get(str(node.value))
    except UnknownTarget as error:
        raise UnknownTarget(error.what, where=str(node.at), why=error.why, next=error.next) from error


def contradictions(recipe: Recipe, target: Target, tree: Node) -> Iterator[tuple[KeyPath, TrtforgeError]]:
    """Every pair of statements that cannot both hold, with the key path of the one to change."""
    if (problem := _backend_problem(recipe, target, tree)) is not None:
        yield ("backend",), problem
    if recipe.tensorrt is not None:
        yield from _tensorrt_problems(recipe, recipe.tensorrt, target, tree)
    for name, engine in recipe.engines.items():
        path: KeyPath = ("engines", name)
        yield from _precision_problems(path, engine, recipe, target, tree)
        yield from _dla_problems(path, engine, target, tree)
        yield from _native_problems(path, engine, recipe, target, tree)
        yield from _input_problems(path, engine, recipe, target, tree)


def _at(tree: Node, path: KeyPath) -> Where:
    return node_at(tree, path).at


def _backend_problem(recipe: Recipe, target: Target, tree: Node) -> TrtforgeError | None:
    backend, where = recipe.backend, str(_at(tree, ("backend",)))
    what = f"backend `{backend}` cannot make engines for `{target.key}`"
    if backend == "onnxruntime" and target.kind != "host":
        why, hint = "onnxruntime engines run on the CPU of this machine", "write `target: host`, or another backend"
    elif backend != "onnxruntime" and target.kind == "host":
        why, hint = f"`{backend}` makes engines for NVIDIA devices", "write `backend: onnxruntime`"
    elif backend == "tensorrt_rtx" and target.kind != "discrete":
        why, hint = "TensorRT-RTX is for discrete GPUs only", "write `backend: tensorrt`, which compiles on the device"
    elif backend == "tensorrt_rtx" and target.sm not in RTX_SMS:
        why = f"TensorRT-RTX compiles for SM {', '.join(RTX_SMS)}; {target.name} has SM {target.sm}"
        hint = "write `backend: tensorrt`, which compiles on the device"
    else:
        return None
    return BackendCannotTarget(what, where=where, why=why, next=hint)


def _tensorrt_problems(
    recipe: Recipe, version: str, target: Target, tree: Node
) -> Iterator[tuple[KeyPath, TrtforgeError]]:
    where = str(_at(tree, ("tensorrt",)))
    if recipe.backend != "tensorrt":
        yield (
            ("tensorrt",),
            Contradiction(
                f"`tensorrt: {version}` is for backend `tensorrt` only",
                where=where,
                why=f"the backend is `{recipe.backend}` ({_at(tree, ('backend',))})",
                next="delete it (`tensorrt: null` drops what a base says), or write `backend: tensorrt`",
            ),
        )
    elif not (_EXACT.fullmatch(version) or _RANGE.fullmatch(version)):
        yield (
            ("tensorrt",),
            WrongValue(
                "`tensorrt` is no version",
                where=where,
                why=f'expected a version such as "10.3" or a range such as ">=10.3,<11", found "{version}"',
                next="name the version on the device: `dpkg -l | grep tensorrt` prints it there",
            ),
        )
    elif _EXACT.fullmatch(version):
        from trtforge.targets.load import dla_support, release_support, releases

        released, why = release_support(target, version)
        supported, no_dla = dla_support(target.key, tensorrt=version) if target.is_dla else (True, "")
        if not released:
            yield (
                ("tensorrt",),
                WrongValue(
                    f"there is no TensorRT {version} for {target.name}",
                    where=where,
                    why=f"{why}; JetPacks for it have {', '.join(releases(target))}",
                    next="name the version on the device: `dpkg -l | grep tensorrt` prints it there",
                ),
            )
        elif not supported:
            yield (
                ("tensorrt",),
                Contradiction(
                    f"TensorRT {version} cannot use the DLA of `{target.device}`",
                    where=where,
                    why=no_dla,
                    next=f"change `tensorrt`, or write `target: {target.device}/gpu`",
                ),
            )


def _precision_problems(
    path: KeyPath, engine: Engine, recipe: Recipe, target: Target, tree: Node
) -> Iterator[tuple[KeyPath, TrtforgeError]]:
    where = str(_at(tree, (*path, "precision")))
    float_only = target.sm in RTX_SMS and target.sm not in RTX_INT8_SMS
    if recipe.backend == "tensorrt_rtx" and engine.precision == "int8" and float_only:
        why = f"INT8 plans are made for SM {', '.join(RTX_INT8_SMS)}; {target.name} has SM {target.sm}"
        if target.sm == "7.5":
            why += ", where TensorRT-RTX runs INT8 convolutions in float"
        yield (
            (*path, "precision"),
            BackendCannotTarget(
                f"TensorRT-RTX makes no INT8 engine for `{target.key}`",
                where=where,
                why=why,
                next="write `precision: fp16`, or `backend: tensorrt` to build INT8 on the device",
            ),
        )
    if recipe.backend == "onnxruntime" and engine.precision == "fp16":
        yield (
            (*path, "precision"),
            BackendCannotTarget(
                "onnxruntime makes no fp16 engine for a CPU",
                where=where,
                why="it would convert around every operator: slower than fp32, and not what a GPU computes",
                next="write `precision: fp32` or `precision: int8`",
            ),
        )
    if target.is_dla and engine.precision == "fp32":
        yield (
            (*path, "precision"),
            Contradiction(
                "a DLA computes in FP16 and INT8 only",
                where=where,
                why=f"`{dotted((*path, 'precision'))}` is `fp32` and the target is `{target.key}`",
                next="write `precision: fp16` or `int8`",
            ),
        )


def _dla_problems(path: KeyPath, engine: Engine, target: Target, tree: Node) -> Iterator[tuple[KeyPath, TrtforgeError]]:
    if engine.dla is None:
        return
    dla = (*path, "dla")
    if not target.is_dla:
        yield (
            dla,
            Contradiction(
                f"`{dotted(dla)}` is for a DLA target only",
                where=str(node_at(tree, dla).key_at),
                why=f"the target `{target.key}` is no DLA ({_at(tree, ('target',))})",
                next="delete it (`dla: null` drops what a base says), or name a DLA target such as orin-agx-64gb/dla",
            ),
        )
    elif target.dla is not None and engine.dla.core >= target.dla.cores:
        yield (
            (*dla, "core"),
            WrongValue(
                f"`{target.key}` has no DLA core {engine.dla.core}",
                where=str(_at(tree, (*dla, "core"))),
                why=f"it has {target.dla.cores}, counted from 0",
                next="write `core: 0`",
            ),
        )


def _native_problems(
    path: KeyPath, engine: Engine, recipe: Recipe, target: Target, tree: Node
) -> Iterator[tuple[KeyPath, TrtforgeError]]:
    """Keys that only native TensorRT understands, and those of them that a Jetson's or a DLA's has no use for."""
    said = [
        (*path, key)
        for key, value in (("outputs", engine.outputs), ("builder", engine.builder))
        if value != _UNSAID[key]
    ]
    said += [(*path, "inputs", name, "range") for name, spec in engine.inputs.items() if spec.range is not None]
    for key in said if recipe.backend != "tensorrt" else ():
        yield (
            key,
            Contradiction(
                f"`{dotted(key)}` is for backend `tensorrt` only",
                where=str(_key_at(tree, key)),
                why=f"the backend is `{recipe.backend}` ({_at(tree, ('backend',))})",
                next="delete it (`null` drops what a base says), or write `backend: tensorrt`",
            ),
        )
    for name, spec in engine.inputs.items():
        key = (*path, "inputs", name, "range")
        if spec.range is not None and target.is_dla:
            yield (
                key,
                Contradiction(
                    f"`{dotted(key)}`: a DLA has no open sizes",
                    where=str(_key_at(tree, key)),
                    why=f"the target is `{target.key}`, whose loadables are made for one shape",
                    next="delete it, and build one engine for each shape",
                ),
            )
        plugin = next((name for name in engine.surgery if name in get_args(PluginName)), None)
        if spec.range is not None and plugin is not None:
            yield (
                key,
                Contradiction(
                    f"`{dotted(key)}` and the plugin `{plugin}` do not go together",
                    where=str(_key_at(tree, key)),
                    why="plugins are chosen for fixed sizes, and the graph then has them",
                    next="delete the range, or take the plugin out of `surgery`",
                ),
            )
    if engine.dla is not None and engine.dla.standalone:
        yield from _standalone_problems(path, engine, tree)
    level, key = engine.builder.hardware_compatibility, (*path, "builder", "hardware_compatibility")
    if level != "none" and target.kind != "discrete":
        yield (
            key,
            Contradiction(
                f"`{dotted(key)}: {level}` is for GPU cards",
                where=str(_key_at(tree, key)),
                why=f"the target is `{target.key}`; NVIDIA has no such engines for Jetson",
                next="delete it",
            ),
        )


_LOADABLE_FORMATS = ("dla_linear", "dla_hwc4", "chw32")


def _standalone_problems(path: KeyPath, engine: Engine, tree: Node) -> Iterator[tuple[KeyPath, TrtforgeError]]:
    """A loadable's tensors are in the DLA's own forms: there is no GPU to bring them there."""
    sides: list[tuple[KeyPath, InputSpec | OutputSpec]] = [
        *(((*path, "inputs", name), spec) for name, spec in engine.inputs.items()),
        *(((*path, "outputs", name), spec) for name, spec in engine.outputs.items()),
    ]
    for key, spec in sides:
        if spec.dtype not in ("int8", "float16") or spec.format not in _LOADABLE_FORMATS:
            yield (
                key,
                Contradiction(
                    f"`{dotted(key)}` is not in a form that a standalone loadable takes",
                    where=str(_key_at(tree, key)),
                    why=f"it is {spec.dtype} in {spec.format}",
                    next=f"write `dtype: int8` or `float16`, and `format:` {', '.join(_LOADABLE_FORMATS)}",
                ),
            )
    if not engine.outputs:
        key = (*path, "dla", "standalone")
        yield (
            key,
            Contradiction(
                f"`{dotted(key)}` wants `outputs` stated",
                where=str(_key_at(tree, key)),
                why="a loadable gives its outputs in the DLA's own forms",
                next="add `outputs: {NAME: {dtype: int8, format: chw32}}` to the engine",
            ),
        )


_UNSAID: dict[str, object] = {"outputs": {}, "builder": Builder()}


def _key_at(tree: Node, path: KeyPath) -> Where:
    node = node_at(tree, path)
    return node.key_at or node.at


def _input_problems(
    path: KeyPath, engine: Engine, recipe: Recipe, target: Target, tree: Node
) -> Iterator[tuple[KeyPath, TrtforgeError]]:
    for name, spec in engine.inputs.items():
        at = (*path, "inputs", name)
        if spec.format.startswith("dla_") and not target.is_dla:
            yield (
                (*at, "format"),
                Contradiction(
                    f"`{dotted((*at, 'format'))}: {spec.format}` is a DLA format",
                    where=str(_at(tree, (*at, "format"))),
                    why=f"the target is `{target.key}` ({_at(tree, ('target',))})",
                    next="write `format: linear`, or name a DLA target",
                ),
            )
        if (
            spec.preprocess.kind == "volume"
            and (problem := _volume_problem(at, engine, spec, recipe, tree)) is not None
        ):
            yield (*at, "shape"), problem
        image = spec.preprocess
        if not isinstance(image, ImagePreprocess):
            continue
        if (problem := _crop_problem((*at, "preprocess", "crop"), image, tree)) is not None:
            yield (*at, "preprocess", "crop"), problem
        if spec.shape[1:] != image.shape:
            yield (*at, "shape"), _image_problem((*at, "shape"), spec, image, tree)


def _image_problem(path: KeyPath, spec: InputSpec, image: ImagePreprocess, tree: Node) -> TrtforgeError:
    """The shape of the input is not [N, *image]; a shape that another of `channels` or `layout` gives is named."""
    wanted = ", ".join(str(side) for side in image.shape)
    hint = f"write `shape: [N, {wanted}]` with your batch for N, or change `preprocess`"
    for channels, layout in product(("rgb", "gray"), ("nchw", "nhwc")):
        if image.model_copy(update={"channels": channels, "layout": layout}).shape == spec.shape[1:]:
            changed = [f"channels: {channels}"] * ((channels == "gray") != (image.channels == "gray"))
            changed += [f"layout: {layout}"] * (layout != image.layout)
            hint = f"write `{', '.join(changed)}` in `preprocess` if that is what the network takes"
    return Contradiction(
        f"`{dotted(path)}` is not the shape of the preprocessed image",
        where=str(_at(tree, path)),
        why=f"it is {list(spec.shape)}; `crop` with `layout: {image.layout}`, `channels: {image.channels}` "
        f"gives [N, {wanted}]",
        next=hint,
    )


def _volume_problem(path: KeyPath, engine: Engine, spec: InputSpec, recipe: Recipe, tree: Node) -> TrtforgeError | None:
    """Windows are [N, 1, D, H, W] in float32; an engine of native TensorRT may take them in less."""
    if len(engine.inputs) > 1:
        why = f"the network has the inputs {', '.join(f'`{name}`' for name in engine.inputs)}"
        what, hint = "a network that is run window by window has one input", "write `kind: array` for each of them"
    elif len(spec.shape) != 5 or spec.shape[1] != 1:
        what = f"`{dotted((*path, 'shape'))}` is not the shape of windows of a volume"
        why, hint = f"it is {list(spec.shape)}", "write [N, 1, D, H, W]: windows at once, one channel, the window"
    elif spec.dtype not in (("float32", "float16", "int8") if recipe.backend == "tensorrt" else ("float32",)):
        what, why = f"`{dotted((*path, 'dtype'))}` is not `float32`", f"it is `{spec.dtype}`; volumes are normalised"
        hint = "delete it"
    else:
        return None
    return Contradiction(what, where=str(_at(tree, (*path, "shape"))), why=why, next=hint)


def _crop_problem(path: KeyPath, image: ImagePreprocess, tree: Node) -> TrtforgeError | None:
    """A crop that no photograph can fill; with one length given, a wide or a tall one may fill a longer side."""
    if isinstance(image.resize, int):
        too_large = min(image.crop) > image.resize
    else:
        too_large = any(crop > side for crop, side in zip(image.crop, image.resize, strict=True))
    if not too_large:
        return None
    resize = image.resize if isinstance(image.resize, int) else list(image.resize)
    return Contradiction(
        f"`{dotted(path)}` is larger than the resized image",
        where=str(_at(tree, path)),
        why=f"it is {list(image.crop)}, and `resize` is {resize}",
        next="raise `resize`, or lower `crop`",
    )
