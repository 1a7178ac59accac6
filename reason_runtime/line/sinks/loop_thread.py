"""An asyncio loop on a thread of its own, for servers whose library knows nothing else."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import TypeVar

Value = TypeVar("Value")


class LoopThread:
    """Runs coroutines for callers that wait for them.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[object, object, Value], *, timeout_s: float) -> Value:
        """The coroutine's value.

        Raises:
            TimeoutError: It took longer.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError as error:  # another class than TimeoutError before Python 3.11
            future.cancel()
            raise TimeoutError(f"no answer within {timeout_s:g} s") from error

    def stop(self) -> None:
        """Cancel what still runs, and end the thread."""
        try:
            self.call(_cancel_others(), timeout_s=2)
        except TimeoutError:
            return  # a coroutine that refuses to end keeps its thread, which is a daemon
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_others() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
