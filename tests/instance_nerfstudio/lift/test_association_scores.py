"""Association scores of maps small enough to count by hand."""

import numpy as np
import pytest

from instance_nerfstudio.lift.association_scores import association_scores


def rows(*lines: str) -> list[np.ndarray]:
    """One view of each line; `.` is unlabelled."""
    return [np.array([[-1 if c == "." else int(c) for c in line]], np.int32) for line in lines]


TRUTH = rows("0111122220", "1111022220", "0011122222")


def test_any_names_that_stay_are_perfect() -> None:
    scores = association_scores(rows("0777733330", "7777033330", "0077733333"), TRUTH)
    assert scores.pq_scene == pytest.approx(1)
    assert (scores.id_switches, scores.over_merged, scores.over_split) == (0, 0, 0)
    assert (scores.abstained, scores.wrong, scores.objects, scores.found) == (0, 0, 2, 2)


def test_switches() -> None:
    """Object 1 is 7, 8, 7; object 2 is 3, missing, 4, 4."""
    truth = [*TRUTH, TRUTH[0]]
    scores = association_scores(rows("0777733330", "888800....", "0077744444", "0777744440"), truth)
    assert scores.id_switches == 3
    assert scores.over_split == 2
    assert scores.over_merged == 0
    assert scores.abstained == pytest.approx(3 / 32)
    # 8 and 3 are mainly of their objects, too: nothing is of a wrong object.
    assert scores.wrong == 0


def test_merged() -> None:
    scores = association_scores(rows("0555555550", "5555055550", "0055555555"), TRUTH)
    assert (scores.over_merged, scores.over_split, scores.id_switches, scores.found) == (1, 0, 0, 1)
    # 5 mainly shows object 2 (13 pixels), so the 11 of object 1 are wrong.
    assert scores.wrong == pytest.approx(11 / 24)


def test_a_small_object_in_a_large_one_is_merged() -> None:
    truth = rows("1111111112", "1111111112")
    assert association_scores(rows("1111111111", "1111111111"), truth).over_merged == 1


def test_slivers_and_unknown_truth_count_nowhere() -> None:
    truth = rows("1111111111", "1111111111", "....111111")
    scores = association_scores(rows("2222222222", "0000000003", "9999222222"), truth)
    assert scores.id_switches == 2
    assert association_scores(rows("2222222222", "0000000003", "9999222222"), truth, 0.11).id_switches == 0


def test_nothing() -> None:
    scores = association_scores(rows("000"), rows("000"))
    assert (scores.objects, scores.found, scores.id_switches, scores.over_merged, scores.abstained) == (0, 0, 0, 0, 0)
    assert np.isnan(scores.pq_scene)
    with pytest.raises(ValueError, match="same views"):
        association_scores(rows("000", "000"), rows("000"))
    with pytest.raises(ValueError, match="one shape"):
        association_scores(rows("000"), rows("0000"))
