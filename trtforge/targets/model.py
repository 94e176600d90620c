"""What a target is: a device (or one accelerator of it) as recipes name it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    key: str
