from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from reason_runtime.line.queues import BoundedQueue


def test_a_full_queue_hands_its_oldest_item_back_and_keeps_the_order_of_the_rest() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2, when_full="drop-oldest")
    assert [queue.put(item) for item in range(4)] == [None, None, 0, 1]
    assert len(queue) == 2
    assert queue.take(most=5) == [2, 3]


def test_what_comes_after_the_close_is_handed_back_and_what_came_before_is_still_read() -> None:
    for when_full in ("block", "drop-oldest"):
        queue: BoundedQueue[int] = BoundedQueue(2, when_full=when_full)
        queue.put(1)
        queue.close()
        assert queue.put(2) == 2
        started_s = time.monotonic()
        assert [queue.take(most=2, wait_s=5), queue.take(), queue.take()] == [[1], [], []]
        assert time.monotonic() - started_s < 4  # nothing comes that it could wait for


def test_a_writer_waits_for_room_and_a_close_lets_it_go() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1, when_full="block")
    queue.put(1)
    with ThreadPoolExecutor(2) as pool:
        second = pool.submit(queue.put, 2)
        time.sleep(0.05)
        assert not second.done()
        assert queue.take(most=1) == [1]
        assert second.result(5) is None
        third = pool.submit(queue.put, 3)
        time.sleep(0.05)
        queue.close()
        assert third.result(5) == 3
    assert queue.take(most=3) == [2]


def test_a_batch_waits_for_others_as_long_as_it_may_and_no_longer_than_it_needs() -> None:
    queue: BoundedQueue[int] = BoundedQueue(3, when_full="block")
    queue.put(1)
    started_s = time.monotonic()
    assert queue.take(most=3, wait_s=0.05) == [1]
    assert time.monotonic() - started_s >= 0.05
    assert [queue.put(item) for item in (2, 3)] == [None, None]
    threading.Timer(0.05, queue.put, [4]).start()
    started_s = time.monotonic()
    assert queue.take(most=3, wait_s=5) == [2, 3, 4]
    assert time.monotonic() - started_s < 4
    for item in (5, 6, 7):
        queue.put(item)
    assert [queue.take(most=2), queue.take(most=2)] == [[5, 6], [7]]
