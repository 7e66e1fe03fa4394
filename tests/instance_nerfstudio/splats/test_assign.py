"""The best class of each Gaussian from its votes."""

import itertools

import pytest
import torch

from instance_nerfstudio.splats.assign import assign_classes


def test_each_gaussian_gets_the_class_with_the_largest_sum() -> None:
    votes = torch.tensor([[5.0, 1.0, 2.0], [1.0, 5.0, 2.0], [1.0, 2.0, 5.0]])
    classes = assign_classes(votes, least_weight=0.0)
    assert classes.dtype == torch.int32
    assert classes.tolist() == [0, 1, 2]


def test_the_assignment_agrees_with_the_masks_as_well_as_any() -> None:
    # 3 Gaussians, 40 pixels with masks of 3 classes: all 27 labellings are tried.
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(40, 3, generator=generator)
    masks = torch.nn.functional.one_hot(torch.randint(3, (40,), generator=generator), 3).float()
    votes = weights.T @ masks

    def agreement(labels: torch.Tensor) -> float:
        return float(((weights @ torch.nn.functional.one_hot(labels, 3).float()) * masks).sum())

    best = max(agreement(torch.tensor(labels)) for labels in itertools.product(range(3), repeat=3))
    assert agreement(assign_classes(votes, least_weight=0.0).long()) == pytest.approx(best)


def test_gaussians_that_no_view_saw_abstain() -> None:
    nan, inf = float("nan"), float("inf")
    votes = torch.tensor([[0.0, 0.0], [0.04, 0.06], [0.05, 0.06], [nan, 1.0], [1.0, nan], [0.0, inf]])
    assert assign_classes(votes, least_weight=0.1).tolist() == [-1, -1, 1, -1, -1, -1]
    assert assign_classes(votes[:2], least_weight=0.0).tolist() == [-1, 1]


def test_background_wins_ties_then_the_first_instance() -> None:
    votes = torch.tensor([[2.0, 2.0, 2.0], [1.0, 2.0, 2.0], [0.0, 0.0, 2.0]])
    assert assign_classes(votes, least_weight=0.0).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("bias", "expected"),
    [(-1.0, [1, 1, 1, 0]), (-0.3, [1, 1, 0, 0]), (0.0, [1, 0, 0, 0]), (0.3, [0, 0, 0, 0]), (1.0, [0, 0, 0, 0])],
)
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_the_bias_is_a_share_of_a_gaussians_votes(bias: float, expected: list[int], scale: float) -> None:
    votes = torch.tensor([[4.0, 6.0], [6.0, 4.0], [9.0, 1.0], [10.0, 0.0]]) * scale
    assert assign_classes(votes, least_weight=0.0, background_bias=bias).tolist() == expected


def test_the_bias_leaves_instances_among_themselves_alone() -> None:
    votes = torch.tensor([[1.0, 5.0, 4.0], [1.0, 4.0, 5.0]])
    for bias in (-1.0, 0.0, 0.3):
        assert assign_classes(votes, least_weight=0.0, background_bias=bias).tolist() == [1, 2]


def test_background_alone_and_no_gaussians() -> None:
    assert assign_classes(torch.tensor([[0.0], [3.0]]), least_weight=0.0).tolist() == [-1, 0]
    assert assign_classes(torch.zeros(0, 3), least_weight=0.0).shape == (0,)
    assert assign_classes(torch.zeros(0, 1), least_weight=0.0).dtype == torch.int32


def test_bad_arguments() -> None:
    votes = torch.ones(2, 2)
    for bad in (
        lambda: assign_classes(torch.ones(2, 0), least_weight=0.0),
        lambda: assign_classes(torch.ones(2), least_weight=0.0),
        lambda: assign_classes(votes, least_weight=-1.0),
        lambda: assign_classes(votes, least_weight=float("nan")),
        lambda: assign_classes(votes, least_weight=0.0, background_bias=1.5),
    ):
        with pytest.raises(ValueError):
            bad()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_as_on_the_cpu() -> None:
    votes = torch.randint(0, 4, (10000, 5), generator=torch.Generator().manual_seed(0)).float()
    expected = assign_classes(votes, least_weight=1.0, background_bias=0.25)
    got = assign_classes(votes.cuda(), least_weight=1.0, background_bias=0.25)
    assert got.is_cuda
    assert torch.equal(got.cpu(), expected)
