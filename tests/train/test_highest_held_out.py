from __future__ import annotations

import numpy as np

from reason_train.highest_held_out import highest_held_out, highest_text

NAMES = [f"{number}.png" for number in range(9)]
SCORES = np.array([4, 1, 2, 3, 4, 5, 24, 3, 2], np.float32)  # median 3; from it 1 2 1 0 1 2 21 0 1, median 1


def test_three_are_named_the_highest_first_and_of_equals_the_first() -> None:
    found = highest_held_out(NAMES, SCORES, threshold=25.0)
    assert [(image["name"], image["score"]) for image in found["images"]] == [
        ("6.png", 24.0),
        ("5.png", 5.0),
        ("0.png", 4.0),
    ]
    assert [image["of_threshold"] for image in found["images"]] == [24 / 25, 5 / 25, 4 / 25]
    assert [image["of_median"] for image in found["images"]] == [8, 5 / 3, 4 / 3]
    assert (found["mads_above_median"], found["far_above"]) == (21, True)
    assert highest_text(found) == (
        "highest held-out: 6.png (0.96 x threshold, 8.00 x median), 5.png (0.20 x threshold, 1.67 x median), "
        "0.png (0.16 x threshold, 1.33 x median); the first 21.0 MAD above the median, "
        "FAR ABOVE THE REST (limit 10): is it a good part?"
    )


def test_at_the_limit_it_is_not_far_above() -> None:
    found = highest_held_out(NAMES, np.where(SCORES == 24, 13, SCORES), threshold=25.0)
    assert (found["mads_above_median"], found["far_above"]) == (10, False)
    assert highest_text(found).endswith("; the first 10.0 MAD above the median")


def test_ratios_do_not_depend_on_the_unit_of_the_scores() -> None:
    found = highest_held_out(NAMES, SCORES / 64, threshold=25.0 / 64)
    assert [image["of_threshold"] for image in found["images"]] == [24 / 25, 5 / 25, 4 / 25]
    assert [image["of_median"] for image in found["images"]] == [8, 5 / 3, 4 / 3]


def test_few_images_and_scores_of_nothing_are_named_without_ratios() -> None:
    found = highest_held_out(["a.png", "b.png"], np.zeros(2, np.float32), threshold=0.0)
    assert [image["name"] for image in found["images"]] == ["a.png", "b.png"]
    assert found["images"][0] == {"name": "a.png", "score": 0.0, "of_threshold": None, "of_median": None}
    assert (found["mads_above_median"], found["far_above"]) == (None, False)
    assert highest_text(found) == (
        "highest held-out: a.png (- threshold, - median), b.png (- threshold, - median); whether it is far above the "
        "rest takes 8 images that differ"
    )
