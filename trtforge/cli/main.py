"""The `trtforge` program: the list of commands, and the one place where an exception becomes an exit code."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import os
import signal
import sys
import traceback
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]

from trtforge import __version__
from trtforge.cli.completion import Shell, install_script, show_script
from trtforge.cli.ui import show_error
from trtforge.errors.base import TrtforgeError
from trtforge.errors.environment import refusal
from trtforge.errors.usage import WrongUsage

if TYPE_CHECKING:
    from typer._click.exceptions import UsageError
else:
    UsageError = typer.BadParameter.__base__  # typer carries its own click, whose name is not public
INTERRUPTED, CLOSED_PIPE = 130, 141  # as a shell reports a process that SIGINT or SIGPIPE ended

COMMANDS = (
    "build",
    "finish",
    "calibrate",
    "tune",
    "run",
    "prepare",
    "inspect",
    "surgery",
    "scales",
    "targets",
    "lint",
    "recipe",
    "explain",
    "doctor",
    "schema",
    "far",
)

app = typer.Typer(
    name="trtforge",
    help="One recipe from an ONNX model to a checked engine, for each NVIDIA target.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,  # typer's own options take no name of a shell
)
completion_init()


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
    install_completion: Annotated[
        Shell | None, typer.Option(callback=install_script, is_eager=True, help="Install completion for this shell")
    ] = None,
    show_completion: Annotated[
        Shell | None, typer.Option(callback=show_script, is_eager=True, help="Print this shell's completion script")
    ] = None,
) -> None:
    if debug:
        os.environ["TRTFORGE_DEBUG"] = "1"


for _name in COMMANDS:
    importlib.import_module(f"trtforge.cli.{_name}").register(app)


def _with_summaries(within: typer.Typer) -> None:
    """List commands with their whole first sentence: what is only a command's `help` is cut there."""
    for command in within.registered_commands:
        command.short_help = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")[0]
    for group in within.registered_groups:
        if group.typer_instance is not None:
            _with_summaries(group.typer_instance)


_with_summaries(app)


def entry() -> None:
    """The console script. Exit codes: see `trtforge.errors.base.EXIT_CODES`."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be text in this terminal's encoding
    sys.exit(_guarded())


def _guarded() -> int:
    """Run the command; every exception ends here as an exit code."""
    try:
        # typer returns the code of an Exit, and 130 for Ctrl-C
        code = int(app(prog_name="trtforge", standalone_mode=False) or 0)
        sys.stdout.flush()
    except UsageError as error:
        code = _wrong_use(error)
    except TrtforgeError as error:
        code = _report(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as stop:
        # typer ends so when the reader of stdout went away (`| head`), and after shell completion
        code = CLOSED_PIPE if isinstance(stop.__context__, BrokenPipeError) else int(stop.code or 0)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at shutdown is to be silent
        code = CLOSED_PIPE
    except Exception as error:
        refused = refusal(error) if isinstance(error, OSError) else None
        code = _report(refused) if refused else _internal(error)
    if code == INTERRUPTED:
        print("interrupted: nothing half-written was left behind", file=sys.stderr)
    return code


def _report(error: TrtforgeError) -> int:
    _print_json(error.to_json())
    show_error(error)
    _traceback(error)
    return error.exit_code


def _wrong_use(error: UsageError) -> int:
    """What Typer found wrong with the command line, told like every other error."""
    message, command = error.format_message(), error.ctx.command_path if error.ctx else _typed_command()
    if error.ctx is not None and message == error.ctx.get_help():
        print(message, file=sys.stderr)  # `trtforge` alone
        return error.exit_code
    message = message.replace("Value error, ", "").rstrip(".")
    return _report(WrongUsage(message[:1].lower() + message[1:], next=f"{command} --help"))


def _typed_command() -> str:
    """`trtforge run`: the command that the words typed begin with; what parses options does not say it."""
    typed, command = ["trtforge"], cast("Any", typer.main.get_command(app))
    for word in (word for word in sys.argv[1:] if not word.startswith("-")):
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            break
        typed.append(word)
    return " ".join(typed)


def _internal(error: Exception) -> int:
    what, again = f"{type(error).__name__}: {error}", "run again as `trtforge --debug ...` for the traceback to report"
    _print_json(
        {
            "code": "INTERNAL",
            "title": "internal error",
            "exit_code": 1,
            "what": what,
            "where": "",
            "why": "this is a bug in trtforge",
            "next": again,
        }
    )
    print(f"internal error: {what}\n  this is a bug in trtforge; {again}", file=sys.stderr)
    _traceback(error)
    return 1


def _print_json(error: dict[str, Any]) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"schema": "trtforge.error/1", "error": error}, indent=2, ensure_ascii=False))


def _traceback(error: Exception) -> None:
    if os.environ.get("TRTFORGE_DEBUG"):
        traceback.print_exception(error)


def _terminate(signum: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt  # cleaned up like Ctrl-C


if __name__ == "__main__":
    entry()
