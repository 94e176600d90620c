"""Refusing a plan by its header, before any deserializer sees it."""

from __future__ import annotations

from trtforge.backends.plan_format import PlanHeader, as_in_header, read_header
from trtforge.errors.engine import ForeignGpu, ForeignTensorRT, WrappedPlan

__all__ = ["PlanHeader", "check", "read_header"]


def check(
    header: PlanHeader,
    *,
    tensorrt_version: str | None = None,
    sm: str | None = None,
    where: str = "",
) -> None:
    """Refuse a plan that this machine cannot run.

    Args:
        header: what :func:`read_header` found.
        tensorrt_version: version of the library that would load it, as far as known ("10.3", "1.7.1.116"): the
            plan's version must start with it. TensorRT-RTX's where ``header.kind`` says so. None: not checked.
        sm: compute capability of the GPU here, "8.6". None: not checked.
        where: the plan's path, for the message.

    Raises:
        WrappedPlan: something lies in front of the plan, so no runtime would accept the file.
        ForeignTensorRT: written by another version.
        ForeignGpu: compiled for other GPUs.
    """
    if header.offset:
        raise WrappedPlan(
            "the plan does not start at the start of its file",
            where=where,
            why=f"{header.offset} bytes of metadata lie in front of it, which TensorRT does not accept",
            next=f"tail -c +{header.offset + 1} FILE > model.plan",
        )
    if tensorrt_version is not None and not _same_version(header.version, tensorrt_version):
        library = "TensorRT-RTX" if header.kind == "tensorrt_rtx" else "TensorRT"
        raise ForeignTensorRT(
            "the engine was written by another version of the library",
            where=where,
            why=f"built by {header.maker}; here is {library} {tensorrt_version}, and plans load only in the version "
            "that wrote them",
            next=_other_version(header),
        )
    if sm is not None and header.sms is not None and not _runs_on(header, sm):
        raise ForeignGpu(
            "the engine was compiled for another GPU",
            where=where,
            why=f"built for SM {', '.join(header.sms) or 'none'}; here is SM {sm}",
            next=f"build it from a recipe whose target has SM {sm} (trtforge targets), "
            f"or move it to a GPU with SM {', '.join(header.sms)}",
        )


def _same_version(plan: str, library: str) -> bool:
    """Equal in every component that both give: a recipe says "10.3", a header "10.3.0.26"."""
    if not plan:
        return False
    return all(left == right for left, right in zip(plan.split("."), as_in_header(library).split("."), strict=False))


def _runs_on(header: PlanHeader, sm: str) -> bool:
    sms = header.sms or ()
    if sm in sms:
        return True
    # "And later" is a promise the header cannot bound: the runtime, which knows its own GPUs, has the last word.
    return header.and_later and bool(sms) and _number(sm) > min(map(_number, sms))


def _number(sm: str) -> tuple[int, ...]:
    return tuple(int(part) for part in sm.split("."))


def _other_version(header: PlanHeader) -> str:
    rebuild = "rebuild it here: trtforge build RECIPE"
    if header.kind == "tensorrt_rtx":
        return f"{rebuild}; or install the one that wrote it: pip install tensorrt-rtx-cu12=={header.version}"
    return rebuild
