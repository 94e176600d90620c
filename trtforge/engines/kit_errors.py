"""What is wrong with a kit, told as errors that a person can act on."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trtforge.engines.records import RecordError
from trtforge.errors.kit import KitDamaged, KitNotWritten, KitUnsafe

KIT = "kit.json"
WRITE_ONE = "`trtforge build RECIPE --kit`"
MOST_SAID = 400  # characters of a reason: names in a stranger's kit may have millions


@contextmanager
def told_as_damage(path: Path) -> Iterator[None]:
    from trtforge.engines.zstd import TooMuch, ZstdError

    try:
        yield
    except RecordError as error:
        raise damaged(path, f"{KIT}: {error}") from error
    except TooMuch as error:
        raise KitUnsafe(
            "the kit is not safe to unpack",
            where=str(path),
            why=str(error),
            next="do not use it; get the kit again from the machine that built it",
        ) from error
    except (tarfile.TarError, ZstdError, EOFError, ValueError, TypeError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def not_unpacked(where: Path, why: str) -> KitNotWritten:
    return KitNotWritten(
        "the kit could not be unpacked",
        where=str(where),
        why=why,
        next="make room, or let TRTFORGE_CACHE name a folder on another disk",
    )


def damaged(path: Path, why: str) -> KitDamaged:
    return KitDamaged(
        "the kit is damaged",
        where=str(path),
        why=why if len(why) <= MOST_SAID else f"{why[:MOST_SAID]}...",
        next=f"copy it again (in binary mode), or write it again with {WRITE_ONE}",
    )
