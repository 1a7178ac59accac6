"""How a command ends: with 0, with 1 and one line that says why, or with 2 for wrong usage."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TextIO, cast

import typer

from reason_runtime.atomic import reason
from reason_runtime.errors import ReasonError
from reason_runtime.telemetry import switch_off_telemetry

_EXTRAS = {"onnxruntime": "cpu", "openvino": "openvino"}
"""Extras of inference libraries, which commands of any extra may need."""


def new_app(about: str) -> typer.Typer:
    """An empty command line whose commands are always named, plain in colour and without shell completion."""
    app = typer.Typer(
        help=about, add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
    )

    @app.callback()
    def named() -> None:
        pass

    return app


def run_script(main: Callable[..., None], *, extra: str | None = None) -> None:
    """Run a script that is one command; it ends as commands do.

    Args:
        main: The command.
        extra: As in `run`.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    run(app, extra=extra)


def run(app: typer.Typer, *, extra: str | None = None) -> None:
    """Run a command line and exit: a `ReasonError`, or what the system refused, is one line on stderr and status 1.

    An empty argument is one line and status 2, whatever it is for.

    Args:
        app: The command line.
        extra: That brings the packages of its commands, but for inference libraries; one that is missing is one line
            too.
    """
    _refuse_empty_arguments()
    switch_off_telemetry()  # some commands import a library beside the one file that runs bundles with it
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    if sys.stdout is None:  # its number would be the next file's, into which native code would print
        os.open(os.devnull, os.O_WRONLY)
    try:
        with redirect_stdout(cast(TextIO, _Output(sys.stdout))):
            try:
                app()
            finally:
                sys.stdout.flush()
    except (ReasonError, OSError, MemoryError) as error:
        if not isinstance(error, BrokenPipeError):  # whoever reads has enough
            print(f"error: {' '.join(str(error).split()) or 'out of memory'}", file=sys.stderr)
        _forget_output()
        sys.exit(1)
    except ModuleNotFoundError as error:
        if extra is None or error.name is None or error.name.startswith("reason_"):
            raise
        brings = _EXTRAS.get(error.name, extra)
        print(f'error: {error.name} is not installed; pip install "reason-edge[{brings}]"', file=sys.stderr)
        sys.exit(1)


class _Output:
    """Standard output, whose failures say that they are its own.

    Args:
        stream: To write to; None, which is what Python has for a closed one, takes nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """See `TextIO.write`."""
        if self._stream is None:
            raise OSError("standard output is closed")
        with _named():
            return self._stream.write(text)

    def flush(self) -> None:
        """See `TextIO.flush`."""
        if self._stream is not None:
            with _named():
                self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # whoever reads has enough
        raise
    except OSError as error:
        raise OSError(f"standard output: cannot be written ({reason(error)})") from error


def _refuse_empty_arguments() -> None:
    """A variable that is not set gives one, which as a path would be the working directory."""
    for before, argument in zip(sys.argv, sys.argv[1:], strict=False):
        if argument == "" or re.fullmatch(r"--[\w-]+=", argument):
            what = argument or f"the argument after {before}"
            print(
                f"error: {what} is empty; expected a value, . for the working directory; is a variable not set?",
                file=sys.stderr,
            )
            sys.exit(2)


def _forget_output() -> None:
    """What could not be written would be tried again, and be an error again, when the interpreter ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
