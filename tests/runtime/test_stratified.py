from __future__ import annotations

import numpy as np
import pytest

from reason_runtime.stratified import stratified


@pytest.mark.parametrize(("count", "most"), [(3, None), (3, 3), (3, 4), (0, 4), (0, None)])
def test_all_are_taken_where_no_more_are_there(count: int, most: int | None) -> None:
    assert stratified(count, most=most).tolist() == list(range(count))


def test_one_comes_from_each_stretch_and_the_same_call_gives_the_same() -> None:
    for count in range(2, 60):
        for most in range(1, count):
            found = stratified(count, most=most)
            assert [int(position * most + most - 1) // count for position in found] == list(range(most))
            np.testing.assert_array_equal(stratified(count, most=most), found)


@pytest.mark.parametrize("most", [32, 256, 1000])
@pytest.mark.parametrize("places", [2, 4, 16, 20])
def test_nothing_that_comes_round_in_turn_is_left_out(most: int, places: int) -> None:
    """As the tiles of a picture do, whatever the number of pictures: each has a third of its share, at least."""
    for pictures in (25, 32, 50, 64, 100, 125, 250, 256, 500, 512, 1000, 2000):
        count = pictures * places
        if count > most >= 16 * places:
            share = np.bincount(stratified(count, most=most) % places, minlength=places) * places / most
            assert share.min() > 1 / 3, (pictures, share)
