"""How a command ends: with 0, with 1 and one line that says why, or with 2 for wrong usage."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from reason_runtime.errors import ReasonError
from reason_runtime.telemetry import switch_off_telemetry


def new_app(about: str) -> typer.Typer:
    """An empty command line whose commands are always named, plain in colour and without shell completion."""
    app = typer.Typer(
        help=about, add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
    )

    @app.callback()
    def named() -> None:
        pass

    return app


def run_script(main: Callable[..., None]) -> None:
    """Run a script that is one command; it ends as commands do."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    run(app)


def run(app: typer.Typer) -> None:
    """Run a command line and exit: a `ReasonError` is one line on stderr and status 1."""
    switch_off_telemetry()  # some commands import ONNX Runtime beside the one file that runs bundles with it
    try:
        app()
    except ReasonError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
