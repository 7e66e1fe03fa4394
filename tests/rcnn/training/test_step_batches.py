"""Every scene once an epoch, whatever the batches, the processes and the interruptions."""

from collections import Counter

import pytest

from rcnn.data import SampleKey
from rcnn.training.step_batches import StepBatches


@pytest.mark.parametrize(("scenes", "batch_size", "steps"), [(5, 2, 10), (2, 4, 3), (7, 3, 14), (1, 1, 4)])
def test_epochs_are_whole_and_shuffled(scenes: int, batch_size: int, steps: int):
    keys = [key for batch in StepBatches(scenes, batch_size, steps, seed=3) for key in batch]
    assert len(keys) == batch_size * steps
    whole = len(keys) // scenes
    counts = Counter(keys[: whole * scenes])
    assert counts == Counter(SampleKey(epoch, index) for epoch in range(whole) for index in range(scenes))
    if scenes > 4:
        orders = {tuple(key.index for key in keys[n * scenes : (n + 1) * scenes]) for n in range(whole)}
        assert len(orders) == whole


def test_a_run_goes_on_where_it_stopped():
    whole = list(StepBatches(5, 3, 12, seed=1))
    for first in (0, 1, 7, 12):
        rest = StepBatches(5, 3, 12, seed=1, first=first)
        assert list(rest) == whole[first:]
        assert len(rest) == 12


def test_processes_share_batches():
    whole = list(StepBatches(5, 6, 9, seed=1))
    shares = [list(StepBatches(5, 6, 9, seed=1, rank=rank, world_size=3)) for rank in range(3)]
    assert [[*a, *b, *c] for a, b, c in zip(*shares, strict=True)] == whole


@pytest.mark.parametrize("wrong", [{"scenes": 0}, {"steps": 0}, {"first": 9}, {"batch_size": 3}, {"rank": 2}])
def test_impossible_runs_are_refused(wrong: dict[str, int]):
    with pytest.raises(ValueError, match=r"no steps|cannot be shared"):
        StepBatches(**{"scenes": 5, "batch_size": 4, "steps": 8, "rank": 1, "world_size": 2, **wrong})
