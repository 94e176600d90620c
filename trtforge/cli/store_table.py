"""The engines and kits of a store, or of the stores in a folder: what `trtforge inspect STORE` lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge.cli.ui import Ui, counted
from trtforge.errors.base import TrtforgeError
from trtforge.memory import human_bytes

if TYPE_CHECKING:
    from trtforge.cli.results import StoredEngine

KITS = "*.kit.tar.zst"


def stored(folder: Path) -> list[StoredEngine]:
    """Every version of every engine, the newest first, and every kit, in a store or in the stores under a folder."""
    if not folder.is_dir():
        return []
    stores = [folder, *sorted(path for path in folder.glob("[!.]*") if path.is_dir())]
    return [entry for store in stores for entry in _entries(store)]


def show(ui: Ui, folder: Path, entries: list[StoredEngine]) -> None:
    """Print the list; the result has every version, and the newest of each engine beside the kits as ``engines``."""
    newest: dict[Path, StoredEngine] = {}
    for entry in entries:
        path = Path(entry["path"])
        newest.setdefault(path if path.name.endswith(KITS[1:]) else path.parent, entry)
    kits = sum(path.name.endswith(KITS[1:]) for path in newest)
    counts = {"engine": len(newest) - kits, "version": len(entries) - kits, "kit": kits}
    listed = ", ".join(counted(many, what) for what, many in counts.items() if many)
    ui.say(f"{folder}: {listed}")
    ui.table(
        "",
        ("engine", "created", "target", "backend", "precision", "size", "parity"),
        [
            (
                str(Path(entry["path"]).relative_to(folder)),
                entry["created"].replace("T", " ").removesuffix("Z") or "-",
                entry["target"],
                entry["backend"],
                entry["precision"],
                human_bytes(entry["size"]),
                entry["problem"] or _parity(entry),
            )
            for entry in entries
        ],
        right="size",
        drop="size,precision,backend,created",
    )
    ui.result(
        "inspect",
        {"kind": "store", "path": str(folder), "engines": list(newest.values()), "versions": entries},
    )


def _parity(entry: StoredEngine) -> str:
    if entry["path"].endswith(KITS[1:]):
        return "kit: the device compiles it"
    return f"{entry['parity']['metric']} {entry['parity']['value']:.6f}" if entry["parity"] else "-"


def _entries(root: Path) -> Iterator[StoredEngine]:
    from trtforge.engines.kit import read_kit
    from trtforge.engines.store import Store

    store = Store(root)
    for reference in store.references():
        name, _, number = reference.partition("/")
        path = root / name / number
        try:
            found = store.get(name, int(number))
        except TrtforgeError as error:
            yield _broken(path, error)
            continue
        manifest = found.manifest
        yield {
            "path": str(path),
            "version": found.version,
            "target": manifest.target.key,
            "backend": manifest.backend,
            "precision": str(manifest.recipe.get("precision", "-")),
            "size": sum(record.size for record in manifest.files.values()),
            "created": manifest.created,
            "parity": manifest.parity,
            "problem": "",
        }
    for path in sorted(root.glob(KITS)):
        try:
            kit = read_kit(path).info
        except TrtforgeError as error:
            yield _broken(path, error)
            continue
        yield {
            "path": str(path),
            "version": None,
            "target": kit.target,
            "backend": kit.backend,
            "precision": str(kit.recipe.get("precision", "-")),
            "size": path.stat().st_size,
            "created": "",
            "parity": None,
            "problem": "",
        }


def _broken(path: Path, error: TrtforgeError) -> StoredEngine:
    return {
        "path": str(path),
        "version": None,
        "target": "-",
        "backend": "-",
        "precision": "-",
        "size": 0,
        "created": "",
        "parity": None,
        "problem": f"{error.code}: {error.what}",
    }
