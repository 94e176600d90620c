"""The forms an INT8 engine for the CPU can take, fastest first. All stand for the same Q/DQ graph.

Which of them is right depends on the CPU: without VNNI, x86 kernels add two u8 x s8 products in 16 bits and saturate.
A form is offered only where its arithmetic cannot, and chosen only when it also passes the self-check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtforge.backends.onnxruntime_.products import SignedWeights
from trtforge.targets.host import HostFacts

_X86 = ("x86_64", "AMD64", "i386", "i686")
_X86_INT8_DOT: tuple[str, ...] = ("avx512_vnni", "avx_vnni", "amx_int8")


@dataclass(frozen=True)
class Form:
    """``slack`` and ``signed_weights``: see ``lowering.lower``; a ``slack`` of None leaves TensorRT's graph as it is.

    ``config``: session entries. ``needs_int8_dot``: right only on a CPU whose kernels sum INT8 products in 32 bits,
    which on x86 takes VNNI or AMX; see :func:`saturates`.
    """

    name: str
    title: str
    slack: float | None
    signed_weights: SignedWeights = "int8"
    needs_int8_dot: bool = False
    config: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "title": self.title, "needs_int8_dot": self.needs_int8_dot}


EXACT = Form("exact", "Q/DQ simulated in float arithmetic", slack=None, config={"session.disable_quant_qdq": "1"})
"""Right on every CPU: onnxruntime's integer fusions are off, weights are dequantized once when loading."""

_REACH = (
    ("integer", "integers throughout", math.inf),
    ("integer-close", "integers, but sums in float where an input would be rounded more coarsely than the sum", 1.0),
    ("integer-inner", "integers where TensorRT's graph has them on both sides", 0.0),
)


def candidates(host: HostFacts) -> list[Form]:
    """Forms whose arithmetic is sound on a CPU, fastest first; the last is :data:`EXACT`."""
    found: list[Form] = []
    for name, title, slack in _REACH:
        if saturates(host):
            found.append(Form(f"{name}-narrow", f"{title}; 7-bit weights on signed activations", slack, "narrow"))
            found.append(Form(f"{name}-u8", f"{title}; slower u8 x u8 kernels on signed activations", slack, "uint8"))
        else:
            # Also where ARM needs no instruction for it: the engine may be carried to an x86 CPU that does.
            found.append(Form(name, title, slack, needs_int8_dot=True))
    return [*found, EXACT]


def saturates(host: HostFacts) -> bool:
    """Whether this CPU's u8 x s8 kernels can overflow: x86 without VNNI or AMX. ARM widens before it adds."""
    return host.machine in _X86 and not host.has_int8_dot


def required_isa(form: Form, host: HostFacts) -> list[str]:
    """The CPU flag an engine built here must find where it is loaded; empty when any CPU like this one will do."""
    if not form.needs_int8_dot:
        return []
    return [flag for flag in _X86_INT8_DOT if flag in host.isa][:1]
