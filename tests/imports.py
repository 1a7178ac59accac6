"""Which packages a module imports: by reading it, and by importing it in a fresh interpreter."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imported_names(source: str) -> Iterator[str]:
    """Every dotted name that a module imports anywhere, those for type checkers alone left out."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides which package it is of"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending += ast.iter_child_nodes(node)


def loaded_packages(code: str, *, arguments: Sequence[object] = ()) -> set[str]:
    """Top-level packages in memory after a new interpreter ran the code, which may end by exiting with 0.

    That this probe can fail is asked in tests/train/test_boundaries.py.
    """
    probe = (
        "import json, sys\n"
        "try:\n"
        f"    exec({code!r})\n"
        "except SystemExit as end:\n"
        "    assert end.code in (0, None), end.code\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", probe, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def loaded_for_help(module: str, commands: Sequence[tuple[str, ...]]) -> set[str]:
    """Top-level packages in memory after a new interpreter printed the help of each of these commands of a module."""
    return loaded_packages(
        f"from {module} import main\n"
        f"for command in {commands!r}:\n"
        "    sys.argv = ['command', *command, '--help']\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0, command\n"
    )
