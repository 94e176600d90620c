"""The `trtforge` program: the list of commands, and the one place where an exception becomes an exit code."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated, Any

import typer

from trtforge import __version__
from trtforge.cli.ui import show_error
from trtforge.errors.base import TrtforgeError

COMMANDS = (
    "build",
    "calibrate",
    "run",
    "inspect",
    "surgery",
    "scales",
    "targets",
    "lint",
    "recipe",
    "explain",
    "doctor",
    "schema",
)

app = typer.Typer(
    name="trtforge",
    help="One recipe from an ONNX model to a checked engine, for each NVIDIA target.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"trtforge {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with every error")] = False,
) -> None:
    if debug:
        os.environ["TRTFORGE_DEBUG"] = "1"


for _name in COMMANDS:
    importlib.import_module(f"trtforge.cli.{_name}").register(app)


def entry() -> None:
    """The console script. Exit codes: see `trtforge.errors.base.EXIT_CODES`."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(standalone_mode=True)
    except TrtforgeError as error:
        _report(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted: nothing half-written was left behind", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # the reader of our stdout went away (`| head`); point stdout elsewhere so that the shutdown flush is silent
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        _internal(error)
        sys.exit(1)


def _report(error: TrtforgeError) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"schema": "trtforge.error/1", "error": error.to_json()}, indent=2, ensure_ascii=False))
    show_error(error)
    if _debug():
        traceback.print_exception(error)


def _internal(error: Exception) -> None:
    print(f"internal error: {type(error).__name__}: {error}", file=sys.stderr)
    if _debug():
        traceback.print_exception(error)
    else:
        print(
            "  this is a bug in trtforge; run again as `trtforge --debug ...` for the traceback to report",
            file=sys.stderr,
        )


def _debug() -> bool:
    return bool(os.environ.get("TRTFORGE_DEBUG"))


def _terminate(signum: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt  # cleaned up like Ctrl-C


if __name__ == "__main__":
    entry()
