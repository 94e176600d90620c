"""`python -m trtforge` and the console script: nothing but the way to `trtforge.cli.main`."""

from __future__ import annotations

import signal

# While the command line is being imported there is nothing to clean up: Ctrl-C just ends, without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)


def entry() -> None:
    from trtforge.cli.main import entry as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    entry()
