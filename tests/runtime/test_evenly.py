from __future__ import annotations

import pytest

from reason_runtime.evenly import evenly


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(3, None, [0, 1, 2]), (3, 3, [0, 1, 2]), (5, 3, [0, 2, 4]), (4, 3, [0, 1, 3]), (5, 1, [0]), (0, 4, [])],
)
def test_by_hand(count: int, most: int | None, expected: list[int]) -> None:
    assert evenly(count, most=most).tolist() == expected


def test_positions_rise_and_hold_both_ends() -> None:
    for count in range(2, 60):
        for most in range(2, count + 1):
            found = evenly(count, most=most).tolist()
            assert (len(found), found[0], found[-1]) == (most, 0, count - 1)
            assert sorted(set(found)) == found
