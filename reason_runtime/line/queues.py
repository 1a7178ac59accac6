"""A bounded queue between two stages, with an explicit policy for when it is full."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

from reason_runtime.choices import BackPressure

Item = TypeVar("Item")


class BoundedQueue(Generic[Item]):
    """First in, first out, for several writers and one reader.

    Args:
        size: Items it holds at most, 1 or more.
        when_full: `block` makes the writer wait; `drop-oldest` takes the oldest out and hands it to the writer.
    """

    def __init__(self, size: int, *, when_full: BackPressure) -> None:
        self._items: deque[Item] = deque()
        self._size = size
        self._when_full = when_full
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: Item) -> Item | None:
        """Add an item.

        Returns:
            What has to be answered in its place: the oldest item where it had to go, the item itself where the queue
            is closed; None where nothing was lost.
        """
        with self._changed:
            if self._when_full == "block":
                self._changed.wait_for(lambda: self._closed or len(self._items) < self._size)
            if self._closed:
                return item
            lost = self._items.popleft() if len(self._items) >= self._size else None
            self._items.append(item)
            self._changed.notify_all()
            return lost

    def take(self, *, most: int = 1, wait_s: float = 0.0) -> list[Item]:
        """The next items: waits for the first, then up to `wait_s` longer until there are `most`.

        Returns:
            At least one item, or an empty list once the queue is closed and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._items))
            until_s = time.monotonic() + wait_s
            while len(self._items) < most and not self._closed and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Let the reader finish what is there; nothing more gets in."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._items)
