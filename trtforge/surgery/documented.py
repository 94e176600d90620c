"""NVIDIA's own plugins by TensorRT release, as documented: a registry can be asked on a device only.

Sources: the plugin READMEs of TensorRT OSS, releases 8.2 to 11.1; the creators' fields in NVIDIA's MLPerf submissions
v2.0 and v2.1 for the closed ones. RnRes2FullFusion_TRT has no source and no document: it is in NVIDIA's library since
the 8.x that MLPerf v2.0 used, and users have seen it listed by 10.x; whether an 11.x has it is not known, so it is
left out there.
"""

from __future__ import annotations

from trtforge.surgery.op import Creator
from trtforge.targets.load import version_tuple

_SINCE: tuple[tuple[Creator, tuple[int, int], tuple[int, int]], ...] = (
    (Creator("RnRes2FullFusion_TRT", "1"), (8, 0), (11, 0)),
    *((Creator("CustomQKVToContextPluginDynamic", version), (8, 0), (12, 0)) for version in "123"),
    *((Creator("CustomQKVToContextPluginDynamic", version), (10, 0), (12, 0)) for version in "456"),
    (Creator("InstanceNormalization_TRT", "1"), (8, 0), (12, 0)),
    (Creator("InstanceNormalization_TRT", "2"), (8, 4), (12, 0)),
    (Creator("InstanceNormalization_TRT", "3"), (10, 0), (12, 0)),
    (Creator("EfficientNMS_TRT", "1"), (8, 0), (12, 0)),
)
"""Creator, the first release that has it, and the first that has it no more."""


def documented(release: str | None) -> frozenset[Creator]:
    """The stock plugins of a release, "8.6"; none when it is not known which one is on the device."""
    known = version_tuple(release) if release is not None else None
    if known is None:
        return frozenset()
    at = (*known, 0)[:2]
    return frozenset(creator for creator, since, until in _SINCE if since <= at < until)
