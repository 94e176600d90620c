"""What `trtforge inspect` says of a kit: what it makes for which device, what is inside, and how to go on."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from trtforge.cli.engine_page import parity as verdict
from trtforge.cli.ui import Ui
from trtforge.memory import human_bytes

if TYPE_CHECKING:
    from trtforge.engines.kit import Kit, KitInfo

MEMBERS = {
    "graph.onnx": "the float graph after surgery",
    "recipe.json": "the recipe",
    "scales.json": "INT8 ranges",
    "samples.json": "list of the samples",
    "samples.bin": "samples, and the FP32 model's answers",
    "trtforge.lock": "what the build was pinned to",
    "timing.cache": "kernel times of the build before",
    "engine/": "for the window loop of scans",
    "plugins/": "a plugin's sources and binaries",
}
"""Members by name or folder; all others are for trtexec."""


def show(ui: Ui, path: Path) -> None:
    """Print the page. Raises what `read_kit` does."""
    from trtforge.engines.kit import read_kit
    from trtforge.engines.signature import claimed

    kit = read_kit(path)
    info = kit.info
    ui.say(f"{path}: kit, sound; key {info.key[:12]}")
    ui.table("", ("what", "value"), _facts(kit, path))
    rows = [(name, human_bytes(entry.size), entry.sha256[:16], _is(name)) for name, entry in info.members.items()]
    ui.table("Members", ("file", "size", "sha256", "is"), rows, right="size", drop="sha256")
    if info.backend == "tensorrt":
        ui.say(f"copy it to the device, and finish it there: trtforge finish {quote(path.name)}")
    else:
        ui.say(f"finish it here, or wherever {info.backend} is: trtforge finish {quote(str(path))}")
    if by_hand := info.facts.get("on_device"):
        ui.say(f"or there without trtforge, unpacked (tar -xf): {by_hand}")
    signed_by = claimed(kit.signature) if kit.signature is not None else None
    ui.result("inspect", {"kind": "kit", "path": str(path), "kit": info.to_json(), "signed_by": signed_by})


def _facts(kit: Kit, path: Path) -> list[tuple[str, object]]:
    from trtforge.engines.records import RecordError

    info = kit.info
    sizes = f"{human_bytes(path.stat().st_size)}; unpacked {human_bytes(info.size)} in {len(info.members)} members"
    rows: list[tuple[str, object]] = [
        ("engine", f"{info.engine} of the recipe {info.recipe_name}"),
        ("target", _target(info)),
        ("compiler", f"{info.backend}{_release(info)}"),
        ("precision", info.recipe.get("precision", "-")),
        ("size", sizes),
        ("signature", _signature(kit)),
        ("written by", f"trtforge {info.trtforge}, which must finish it"),
    ]
    try:
        return rows + _made_of(info)
    except (RecordError, KeyError, TypeError, ValueError):  # another's kit; `finish` refuses it
        return [*rows, ("facts", "unreadable: it cannot be finished")]


def _made_of(info: KitInfo) -> list[tuple[str, object]]:
    """What the kit says of its making. Raises RecordError, KeyError, TypeError, ValueError where no kit says that."""
    from trtforge.engines.records import from_json
    from trtforge.pipeline.kit import Facts

    facts = from_json(Facts, info.facts, "facts")
    rows: list[tuple[str, object]] = [("model", f"{facts.model.origin}, sha256 {facts.model.sha256[:16]}")]
    if facts.calibration:
        rows.append(("calibration", f"{facts.calibration['method']}, {len(facts.calibration['samples'])} samples"))
    if not facts.samples:
        rows.append(("samples", "none are kept: the device cannot measure its engine"))
    if facts.parity:
        rows.append(("parity", verdict(facts.parity)))
    return rows


def _target(info: KitInfo) -> str:
    from trtforge.errors.targets import UnknownTarget
    from trtforge.targets.load import get

    try:
        target = get(info.target)
    except UnknownTarget:
        return f"{info.target}, which this trtforge does not know"
    sm = f", SM {target.sm}" if target.sm else ""
    return f"{info.target}: {target.name}{sm}" if target.kind != "host" else "host: any machine's CPU"


def _release(info: KitInfo) -> str:
    """The TensorRT that the recipe asks for."""
    said: Any = info.key_inputs.get("tensorrt")
    if info.backend != "tensorrt":
        return ""
    return f" {said}" if said else ", of any release"


def _signature(kit: Kit) -> str:
    from trtforge.engines.signature import claimed

    if kit.signature is None:
        return "none"
    check = "trtforge finish KIT --only-check --require-signature PUBLIC_KEY"
    return f"by {claimed(kit.signature)}, not checked: {check}"


def _is(name: str) -> str:
    folder = name.partition("/")[0] + "/"
    return MEMBERS.get(name) or MEMBERS.get(folder) or "for trtexec"
