"""`trtforge doctor`: what works on this machine, and what would make the rest work."""

from __future__ import annotations

import typer

from trtforge.cli.options import Json
from trtforge.cli.ui import Ui

WITHOUT_COMPILER = (
    "; same labels, more time. Install a C++ compiler, then "
    "`pip install --no-cache-dir --force-reinstall --no-deps trtforge`"
)


OPTIONAL = {
    "SimpleITK": ("scans in NRRD, MetaImage and DICOM", "itk"),
    "cryptography": ("signatures of kits", "sign"),
    "bcrypt": ("OpenSSH's keys with a passphrase", "sign"),
}
"""Packages that only some work needs: what for, and the extra that brings them."""


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(json: Json = False) -> None:
    """Say what works on this machine, and what would help."""
    ui = Ui(json=json)
    from trtforge import __version__
    from trtforge.backends.registry import availabilities
    from trtforge.cache import cache_dir
    from trtforge.pipeline.job import TOOLS, installed
    from trtforge.runtime.windows.compiled import native_module
    from trtforge.targets.host import host_facts

    loop = "numpy" if native_module() is None else "compiled"
    facts = host_facts()
    backends = availabilities()
    packages = {name: installed(name) for name in (*TOOLS, *OPTIONAL)}
    ui.say(f"trtforge {__version__}; cache {cache_dir()}")
    ui.say(f"CPU: {facts.model}, {facts.cores} cores, {' '.join(facts.isa) or 'no flags known'}")
    ui.say(f"window loop for scans: {loop}{'' if loop == 'compiled' else WITHOUT_COMPILER}")
    rows = [
        (name, "yes" if a.can_compile else "no", "yes" if a.can_run else "no", a.version or "-", a.why, a.next)
        for name, a in backends.items()
    ]
    ui.table("Backends", ("backend", "compile", "run", "version", "why not", "next"), rows)
    ui.table(
        "Packages",
        ("package", "version", "for"),
        [(name, version or "missing", _purpose(name)) for name, version in packages.items()],
    )
    ui.result(
        "doctor",
        {
            "version": __version__,
            "cache": str(cache_dir()),
            "window_loop": loop,
            "cpu": {"model": facts.model, "cores": facts.cores, "flags": list(facts.isa)},
            "backends": {
                name: {
                    "can_compile": a.can_compile,
                    "can_run": a.can_run,
                    "version": a.version,
                    "why": a.why,
                    "next": a.next,
                }
                for name, a in backends.items()
            },
            "packages": packages,
        },
    )


def _purpose(name: str) -> str:
    if name not in OPTIONAL:
        return "all of trtforge"
    purpose, extra = OPTIONAL[name]
    return f"{purpose}: pip install 'trtforge[{extra}]'"
