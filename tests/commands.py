"""Commands run in this process, as a shell would see them: exit status, standard output, standard error."""

from __future__ import annotations

import contextlib
import importlib
import io
import signal
import sys
from dataclasses import dataclass

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)  # ignored by a command that has ended
MODULES = {
    "reason-train": "reason_train.commands",
    "reason-export": "reason_export.commands",
    "reason-run": "reason_runtime.commands",
    "reason-bench": "reason_runtime.bench_commands",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    status: int
    output: str
    log: str

    @property
    def error(self) -> str:
        """The one line that a failure is; fails where it is not one."""
        assert self.status == 1, (self.status, self.log)
        lines = [line for line in self.log.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.log
        assert "Traceback" not in self.log
        return lines[0]


def call(command: str, *arguments: object) -> Done:
    main = importlib.import_module(MODULES[command]).main
    output, log, before, status = io.StringIO(), io.StringIO(), sys.argv, 0
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    sys.argv = [command, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(log):
            main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Done(status=status, output=output.getvalue(), log=log.getvalue())
