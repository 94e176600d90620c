"""DLA104: operators the DLA does not run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.dla.stated import off_the_dla
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class DlaUnsupportedOp(Rule):
    """What it does
        Looks up every operator of the graph in the table of what the DLA runs, for the generation of the DLA and the
        TensorRT version of the recipe. Constants and what folds into them are left out, and so are Flatten, Reshape
        and the like at an end of the network, where they move no data. What becomes a plugin does not run there either.

    Why it matters
        TensorRT gives such a layer to the GPU with a warning only, and refuses to build when GPU fallback is off. Each
        one that lies between layers of the DLA cuts the network into pieces with copies and reformats between, which
        run on the GPU as well; a core holds sixteen pieces. At the ends of a network such a layer is a hint only.

    Example
        A classifier that ends in GlobalAveragePool, Flatten, Gemm: its convolutions run on the DLA, its tail does not.

    Fix
        Use the rewrite named in the finding where there is one. A surgery pass is named only where it does something
        for this layer; `trtforge lint RECIPE --fix` tries it and prints the line for the recipe. Or end the exported
        network at the last layer that runs, as NVIDIA's own preparation scripts do with the tail of ResNet-50, or leave
        the layer to the GPU: `dla: {gpu_fallback: true}`, the default. The table was read from the documentation and
        headers of TensorRT 8.2 to 10.3; each finding says whether its row is documented, observed in a build log, or
        recalled. `can_run_on_DLA` of the device's own TensorRT has the last word.
    """

    code = "DLA104"
    title = "operator does not run on the DLA"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        yield from off_the_dla(self, context, "operator")
        yield from off_the_dla(self, context, "plugin")
