"""The command line: ``fastgan``, or ``python -m fastgan``.

Nothing here imports torch before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from fastgan.errors import TrainingDiverged, UserError

__all__ = ["main"]

USAGE = 2
DIVERGED = 3
INTERRUPTED = 130
CLOSED_PIPE = 128 + signal.SIGPIPE
# What the user's paths lead to; UserError covers what fastgan itself finds wrong.
MISTAKES = (UserError, FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 where it worked, 2 with one sentence on stderr for the user's mistakes, 3 for a
    training run that came to infinite or undefined numbers, and as after SIGPIPE where nobody reads stdout any more.
    """
    # GNU OpenMP's threads otherwise spin for milliseconds at every barrier: beside another busy process, that made a
    # step 17 times as long, and alone it gains nothing. Read when torch is imported; a value of the user's own stays.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import typer

    from fastgan.cli.app import app

    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            command = typer.main.get_command(app)
            with command.make_context("fastgan", arguments) as context:
                command.invoke(context)
            sys.stdout.flush()
            sys.exit(0)
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        sys.exit(CLOSED_PIPE)
    except MISTAKES as error:
        _fail(str(error), USAGE)
    except TrainingDiverged as error:
        _fail(str(error), DIVERGED)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not typer's own
            raise
        _fail(error.format_message(), getattr(error, "exit_code", USAGE))


def _fail(sentence: str, code: int) -> None:
    print(f"fastgan: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(code)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    print(f"fastgan: {category.__name__}: {message}", file=sys.stderr)
