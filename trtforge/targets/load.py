"""The table of targets: look one up by its key, list JetPacks, ask whether a DLA can be used."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from trtforge.errors.targets import UnknownTarget
from trtforge.targets.host import host_facts
from trtforge.targets.model import Dla, DlaWindow, JetPack, PowerMode, Provenance, Target

TABLE = Path(__file__).with_name("targets.json")


def keys() -> list[str]:
    """Every target key, in the order of the table."""
    return list(_table()["targets"])


def get(key: str) -> Target:
    """The target of this key; on ``host`` with the facts of this CPU. Raises UnknownTarget (RCP201)."""
    record = _table()["targets"].get(key)
    if record is None:
        raise _unknown(key)
    target = _target(key, record)
    return replace(target, host=host_facts()) if target.kind == "host" else target


def jetpacks() -> list[JetPack]:
    """Every JetPack release in the table, oldest first."""
    return list(_jetpacks())


def releases(target: Target) -> list[str]:
    """The TensorRT releases that JetPacks brought to this device, newest first; none for a machine with a GPU card."""
    return list(dict.fromkeys(pack.tensorrt for pack in reversed(_jetpacks()) if target.family in pack.families))


def device_release(target: Target, said: str) -> str | None:
    """The release that a recipe's `tensorrt` means: "8.6" is the 8.6.2 of the JetPack that carries it, a range the
    newest in it. A version that no JetPack brought stands for itself; a range without any is None.
    """
    known = releases(target)
    if said[:1].isdigit():
        return next((release for release in known if f"{release}.".startswith(f"{said}.")), said)
    from packaging.specifiers import SpecifierSet

    return next((release for release in known if release in SpecifierSet(said)), None)


def release_support(target: Target, tensorrt: str) -> tuple[bool, str]:
    """Was this version ever a release for the device? The answer and why not; versions in between are not judged."""
    version, known = version_tuple(tensorrt), releases(target)
    if version is None or not known:
        return True, ""
    if target.tensorrt_max is not None and _after(version, target.tensorrt_max):
        return False, f"TensorRT {target.tensorrt_max} is the last release for {target.device}"
    if _before_tuple(version, known[-1]):
        return False, f"the first JetPack for {target.device} brought TensorRT {known[-1]}"
    return True, ""


def dla_support(device: str, tensorrt: str | None = None, jetpack: str | None = None) -> tuple[bool, str]:
    """Can this device use its DLA with this TensorRT and this JetPack? The answer, and one sentence that says why.

    ``device``: a target key, with or without ``/gpu`` or ``/dla``. ``tensorrt``: "8.6", "10.3.0", ...; taken from
    ``jetpack`` when None; with both None the answer is about the hardware. Unknown versions and versions that name
    too little to decide ("11.4") are a no that says so. Raises UnknownTarget.
    """
    target = _dla_of(device)
    if target is None:
        return False, f"{device.split('/', 1)[0]} has no DLA"
    release = next((row for row in _jetpacks() if row.version == jetpack), None)
    if jetpack is not None:
        if release is None:
            listed = ", ".join(row.version for row in _jetpacks())
            return False, f"JetPack {jetpack} is not in the table (it lists {listed})"
        if target.family not in release.families:
            return False, f"JetPack {jetpack} does not support {target.device}"
    if tensorrt is None and release is not None:
        tensorrt = release.tensorrt
    if tensorrt is None:
        assert target.dla is not None
        cores = "1 DLA core" if target.dla.cores == 1 else f"{target.dla.cores} DLA cores"
        return True, f"{target.device} has {cores}; name a TensorRT version to know whether it can use them"
    supported, why = _tensorrt_support(target, tensorrt, jetpack)
    if release is not None and not _same_release(tensorrt, release.tensorrt):
        why += (
            f" (JetPack {jetpack} ships TensorRT {release.tensorrt}; {tensorrt} would have to be installed beside it)"
        )
    return supported, why


def version_tuple(text: str) -> tuple[int, ...] | None:
    """(10, 3, 0) for "10.3.0"; None when it is not a dotted version."""
    return tuple(int(part) for part in text.split(".")) if re.fullmatch(r"\d{1,4}(\.\d{1,6}){0,4}", text) else None


def _tensorrt_support(target: Target, tensorrt: str, jetpack: str | None) -> tuple[bool, str]:
    version = version_tuple(tensorrt)
    if version is None:
        return False, f"`{tensorrt}` is not a TensorRT version such as 10.3"
    if target.tensorrt_max is not None and _after(version, target.tensorrt_max):
        return False, f"TensorRT {target.tensorrt_max} is the last release for {target.device}, and this is {tensorrt}"
    windows = [window for window in _windows() if _overlaps(version, window)]
    if not windows:
        first, last = _windows()[0].first, _windows()[-1].last
        return False, f"TensorRT {tensorrt} is outside the table, which knows {first} to {last}"
    verdicts = [_window_support(target, window, jetpack) for window in windows]
    if len({supported for supported, _ in verdicts}) > 1:
        reasons = "; ".join(window.why for window in windows)
        return False, f"`{tensorrt}` does not say which release ({reasons}): write it in full"
    return verdicts[0]


def _window_support(target: Target, window: DlaWindow, jetpack: str | None) -> tuple[bool, str]:
    if target.family not in window.families:
        return False, window.why if not window.families else f"{window.why}; {target.device} is not among them"
    if window.jetpack_min is not None and jetpack is not None and _before(jetpack, window.jetpack_min):
        return False, f"{window.why}, and this is JetPack {jetpack}"
    return True, window.why


def _overlaps(version: tuple[int, ...], window: DlaWindow) -> bool:
    """Does a version, read as "any release that begins so", touch the window?"""
    return not _after(version, window.last) and not _before_tuple(version, window.first)


def _after(version: tuple[int, ...], last: str) -> bool:
    """Every release ``version`` can mean is later than every release ``last`` can mean."""
    bound = version_tuple(last) or ()
    shared = min(len(version), len(bound))
    return version[:shared] > bound[:shared]


def _same_release(left: str, right: str) -> bool:
    """Equal as far as both say."""
    parts = [version_tuple(text) or () for text in (left, right)]
    shared = min(map(len, parts))
    return parts[0][:shared] == parts[1][:shared]


def _before_tuple(version: tuple[int, ...], first: str) -> bool:
    bound = version_tuple(first) or ()
    shared = min(len(version), len(bound))
    return version[:shared] < bound[:shared]


def _before(version: str, first: str) -> bool:
    """JetPack names are full: "7.2" is 7.2.0."""
    width = 3
    left, right = (list(version_tuple(text) or ()) + [0] * width for text in (version, first))
    return left[:width] < right[:width]


def _dla_of(device: str) -> Target | None:
    """The DLA target of a device; None when the device has no DLA. Raises UnknownTarget."""
    table = _table()["targets"]
    base = device.removesuffix("/gpu").removesuffix("/dla")
    if not any(key == base or key.startswith(f"{base}/") for key in table):
        raise _unknown(device)
    record = table.get(f"{base}/dla")
    return None if record is None else _target(f"{base}/dla", record)


def _unknown(key: str) -> UnknownTarget:
    known = keys()
    # "orin-agx-64gb" lacks the accelerator, "a100" its form: completions are better answers than similar spellings
    near = [name for name in known if name.startswith((f"{key.lower()}/", f"{key.lower()}-"))]
    near = near or [name for name in known if name == key.lower()] or get_close_matches(key.lower(), known, cutoff=0.5)
    what = f"there is no target `{key}`"
    if not near:
        return UnknownTarget(what, why=f"known: {', '.join(known)}", next="trtforge targets")
    said = "did you mean" if len(near) <= 3 else "name one in full:"
    return UnknownTarget(
        what,
        why="no key of the table of targets is called so",
        next=f"{said} {', '.join(near)}{'?' if len(near) <= 3 else ';'} trtforge targets lists all",
    )


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def _target(key: str, record: dict[str, Any]) -> Target:
    return Target(
        **{
            **record,
            "key": key,
            "device": key.split("/", 1)[0],
            "dla": Dla(**record["dla"]) if "dla" in record else None,
            "power_modes": tuple(PowerMode(**mode) for mode in record.get("power_modes", ())),
            "provenance": {figure: Provenance(**entry) for figure, entry in record["provenance"].items()},
        }
    )


@lru_cache(maxsize=1)
def _jetpacks() -> tuple[JetPack, ...]:
    return tuple(
        JetPack(
            **{
                "dla_software": None,
                **row,
                "families": tuple(row["families"]),
                "dla": tuple(row["dla"]),
                "provenance": Provenance(**row["provenance"]),
            }
        )
        for row in _table()["jetpacks"]
    )


@lru_cache(maxsize=1)
def _windows() -> tuple[DlaWindow, ...]:
    return tuple(
        DlaWindow(**{"jetpack_min": None, **row, "families": tuple(row["families"])}) for row in _table()["dla_windows"]
    )
