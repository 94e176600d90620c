"""From a reference to an engine that may be loaded: found, whole, unchanged, and built for this machine.

The order matters: digests of the files first, then the plan's own header, then manifest against machine. Only after
all of it may a deserializer see a byte: a plan that was changed can crash one, or run code in it.
"""

from __future__ import annotations

from pathlib import Path

from trtforge.digest import sha256_file
from trtforge.engines.find import DEFAULT_STORES, find_engine
from trtforge.engines.machine import Machine
from trtforge.engines.manifest import FileRecord
from trtforge.engines.plan_header import PlanHeader, check, read_header
from trtforge.engines.store import EngineVersion
from trtforge.engines.store_errors import explained
from trtforge.errors.engine import (
    BackendUnavailable,
    EngineFileChanged,
    EngineFileMissing,
    ForeignGpu,
    HeaderContradictsManifest,
    WrongCpu,
)

__all__ = ["check_files", "check_header", "check_machine", "damage", "find_engine", "open_engine"]

REBUILD = "run `trtforge build` again, or copy the whole version folder again"


def open_engine(
    reference: str | Path, *, store_root: Path = DEFAULT_STORES, here: Machine | None = None
) -> EngineVersion:
    """Find an engine and check it, so that it is safe and sensible to load.

    Args:
        reference: see :func:`trtforge.engines.find.find_engine`.
        store_root: the folder of stores (or a store) in which a bare name is looked for.
        here: :func:`trtforge.engines.machine.this_machine`; None checks only that the engine is the one that was
            published, for tools that read it without running it.

    Raises ENG101, ENG102, ENG104, ENG106..ENG114, and ENG2xx for a plan's header.
    """
    version = find_engine(reference, store_root=store_root)
    check_files(version)
    header = check_header(version)
    if here is not None:
        check_machine(version, header, here)
    return version


def check_files(version: EngineVersion) -> None:
    """Every file the manifest lists is there with its size and digest. Raises ENG104, ENG110, ENG111."""
    with explained(version.path, f"read the engine {version.engine}/{version.version}"):
        for name, record in version.manifest.files.items():
            _check_file(version.path / name, record)


def damage(version: EngineVersion) -> dict[str, EngineFileMissing | EngineFileChanged]:
    """What :func:`check_files` would raise, for every file that is not as it was published. Raises ENG104."""
    found: dict[str, EngineFileMissing | EngineFileChanged] = {}
    with explained(version.path, f"read the engine {version.engine}/{version.version}"):
        for name, record in version.manifest.files.items():
            try:
                _check_file(version.path / name, record)
            except (EngineFileMissing, EngineFileChanged) as error:
                found[name] = error
    return found


def _check_file(path: Path, record: FileRecord) -> None:
    if not path.is_file():
        raise EngineFileMissing(
            f"the file {path.name} of the engine is missing",
            where=str(path),
            why=f"its manifest lists it with {record.size} bytes",
            next=REBUILD,
        )
    size = path.stat().st_size
    if size != record.size:
        why = f"{record.size} bytes were published, {size} are here"
    elif (digest := sha256_file(path)) != record.sha256:
        why = f"sha256 {record.sha256[:16]}... was published, {digest[:16]}... is here"
    else:
        return
    raise EngineFileChanged(
        f"the file {path.name} is not the one that was published", where=str(path), why=why, next=REBUILD
    )


def check_header(version: EngineVersion) -> PlanHeader | None:
    """A plan's header is sound and says what the manifest says; None for engines that are no plans.

    Raises ENG104, ENG113 and ENG2xx.
    """
    manifest, where = version.manifest, str(version.engine_file)
    if manifest.platform != "tensorrt_plan":
        return None
    with explained(version.path, f"read the engine {version.engine}/{version.version}"):
        header = read_header(version.engine_file)
    check(header, where=where)
    if header.kind != manifest.backend:
        why = f"the header is {header.maker}'s, the manifest says {manifest.backend}"
    elif header.sms is not None and manifest.target.sm not in (None, *header.sms) and not header.and_later:
        why = f"the header says SM {', '.join(header.sms) or 'none'}, the manifest SM {manifest.target.sm}"
    else:
        return header
    raise HeaderContradictsManifest(
        "the plan's header contradicts its manifest", where=where, why=why, next="run `trtforge build RECIPE --force`"
    )


def check_machine(version: EngineVersion, header: PlanHeader | None, here: Machine) -> None:
    """The engine runs on this machine. Raises ENG112, ENG114, ENG205, ENG206."""
    manifest, where = version.manifest, str(version.path)
    backend = here.backends.get(manifest.backend)
    if header is not None:
        check(header, tensorrt_version=(backend and backend.version) or None, sm=here.sm, where=where)
    if backend is None or not backend.can_run:
        raise BackendUnavailable(
            f"the engine {version.engine}/{version.version} cannot run on this machine",
            where=where,
            why=f"it was built for {manifest.target.key} by {manifest.backend}: "
            + (backend.why if backend else "no backend of that name is known here"),
            next=(backend and backend.next) or "trtforge doctor",
        )
    if header is not None and header.sms is None and None not in (manifest.target.sm, here.sm):
        _check_sm(version, str(manifest.target.sm), str(here.sm))
    if lacking := sorted(set(manifest.target.isa) - here.isa):
        raise WrongCpu(
            f"the engine {version.engine}/{version.version} was built for another CPU",
            where=where,
            why=f"its INT8 results are right only with {', '.join(lacking)}, which this CPU lacks",
            next="build its recipe on this machine: `trtforge build RECIPE`",
        )


def _check_sm(version: EngineVersion, built: str, here: str) -> None:
    """For plans whose header does not say which GPU they are for: the manifest does."""
    if built != here:
        raise ForeignGpu(
            "the engine was compiled for another GPU",
            where=str(version.path),
            why=f"built for {version.manifest.target.key} (SM {built}); here is SM {here}",
            next=f"build a recipe whose target has SM {here}; `trtforge targets` lists them",
        )
