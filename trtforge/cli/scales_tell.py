"""What `trtforge scales convert` tells about a conversion, in words and as JSON."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.cli.scales_source import Source
from trtforge.cli.ui import Ui

if TYPE_CHECKING:
    from trtforge.graph.model import Model
    from trtforge.scales.precisions import Precisions
    from trtforge.scales.table import ScaleTable
    from trtforge.scales.unscaled import Unscaled
    from trtforge.targets.model import Target

SHOWN = 10
"""Tensors named in a report for people; `--json` has them all."""

LONG = 2000
"""Characters of a trtexec option that are still printed; a longer one is in the file of `--precisions`."""


def tell_quantized(ui: Ui, source: Source) -> dict[str, Any]:
    """What a Q/DQ model says that scales alone cannot."""
    if source.found is None:
        return {}
    from trtforge.scales.codecs.lost_weights import lost_weights

    found, lost = source.found, lost_weights(source.found)
    if not found.table.ranges:
        ui.warn("the model quantizes weights at most, and no activation: there is no scale to write")
    if asymmetric := found.asymmetric:
        ui.warn(
            f"{count(len(asymmetric), 'activation has', 'activations have')} a zero point, which TensorRT knows not: "
            f"each gets the symmetric scale that covers its range, up to twice as coarse: {some(asymmetric)}"
        )
    if found.relus:
        restored = count(len(found.relus), "ReLU or ReLU6", "ReLUs and ReLU6s")
        ui.say(f"{restored} that zero points stood for: nodes of the plain model again")
    if inputs := found.clipped_inputs:
        ui.warn(
            f"{count(len(inputs), 'input was', 'inputs were')} clipped at 0 by a zero point, and the plain model does "
            f"not clip: it is the same network for values from 0 on only: {some(inputs)}"
        )
    for conflict in found.conflicts:
        ranges = ", ".join(f"{amax:g}" for amax in conflict.amax)
        ui.warn(f"{conflict.tensor} had {len(conflict.amax)} scales (amax {ranges}); it has the widest now")
    if lost:
        ui.warn(
            f"{count(len(lost), 'weight has', 'weights have')} scales that are lost; without Q/DQ, and with "
            "`--to qdq` too, each output channel has max |w| / 127: "
            + some(f"{entry.tensor} ({entry.kind}, x{entry.ratio:.4g})" for entry in lost)
        )
    return {
        "asymmetric": list(asymmetric),
        "restored_relus": list(found.relus),
        "clipped_inputs": list(found.clipped_inputs),
        "conflicts": [asdict(conflict) for conflict in found.conflicts],
        "lost_weight_scales": [asdict(entry) for entry in lost],
        "carried": source.carried().via,
    }


def tell_precisions(ui: Ui, layers: Precisions, path: Path) -> None:
    ui.say(
        f"{path}: {len(layers.of('int8'))} layers INT8, {len(layers.of('float'))} float, "
        f"{len(layers.of('fused'))} that fuse with an INT8 one and are left to the compiler"
    )
    options = shlex.join(layers.to_json()["trtexec"])
    ui.say(f"  trtexec: {options}" if len(options) <= LONG else "  trtexec's options are in it, under `trtexec`")
    if bad := layers.unwritable():
        ui.warn(f"{len(bad)} layers have names that trtexec's --layerPrecisions cannot hold: {some(bad)}")


def tell_unscaled(ui: Ui, graph: Model, table: ScaleTable, target: Target | None) -> dict[str, Any]:
    from trtforge.scales.unscaled import cost_of_half, without_scale

    bare: tuple[Unscaled, ...] = without_scale(graph, table.ranges, target)
    if bare:
        ui.say(f"{count(len(bare), 'float tensor has', 'float tensors have')} no scale; what then runs where:")
        for entry in bare[:SHOWN]:
            ui.say(f"  {entry.tensor}: {entry.consequence}")
        tell_rest(ui, len(bare))
        if target is not None and target.is_dla:
            ui.say(f"  {target.key}: {cost_of_half(target)}; `trtforge lint RECIPE` says which layers it does not take")
    return {"without_scale": [entry.tensor for entry in bare], "consequences": [asdict(entry) for entry in bare]}


def count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def tell_rest(ui: Ui, total: int) -> None:
    if total > SHOWN:
        ui.say(f"  and {total - SHOWN} more; `--json` names all")


def some(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
