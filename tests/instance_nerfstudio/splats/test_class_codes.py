"""Unit vectors that stand for classes."""

import pytest
import torch

from instance_nerfstudio.splats.class_codes import class_codes


def _coherence(codes: torch.Tensor) -> float:
    return float((codes @ codes.T).fill_diagonal_(0).abs().max())


@pytest.mark.parametrize(("classes", "dim"), [(1, 1), (1, 16), (2, 2), (5, 16), (16, 16)])
def test_one_hot_while_there_is_room(classes: int, dim: int) -> None:
    assert torch.equal(class_codes(classes, dim), torch.eye(classes, dim))


# Measured 0.269, 0.191 and 0.277; Welch's bounds are 0.218, 0.154 and 0.171, of random vectors it is over 0.6.
@pytest.mark.parametrize(("classes", "dim", "most"), [(64, 16, 0.29), (128, 32, 0.21), (512, 32, 0.30)])
def test_codes_are_nearly_orthogonal(classes: int, dim: int, most: float) -> None:
    codes = class_codes(classes, dim)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(classes))
    assert _coherence(codes) < most
    torch.testing.assert_close(codes, class_codes(classes, dim))


@pytest.mark.parametrize(("classes", "dim"), [(17, 16), (64, 16), (128, 32), (512, 32)])
def test_the_heavier_of_two_classes_wins(classes: int, dim: int) -> None:
    codes = class_codes(classes, dim)
    generator = torch.Generator().manual_seed(1)
    heavy = torch.randint(classes, (20000,), generator=generator)
    light = (heavy + torch.randint(1, classes, (20000,), generator=generator)) % classes
    blends = (1.1 * codes[heavy] + codes[light]) / 2.1
    assert ((blends @ codes.T).argmax(dim=1) == heavy).float().mean() >= 0.999


@pytest.mark.parametrize(("classes", "dim"), [(3, 2), (9, 2), (17, 16), (700, 8)])
def test_pure_blends_are_their_class_however_little_room_there_is(classes: int, dim: int) -> None:
    codes = class_codes(classes, dim)
    assert codes.isfinite().all()
    assert torch.equal((codes @ codes.T).argmax(dim=1), torch.arange(classes))


def test_no_room() -> None:
    for classes, dim in ((0, 4), (2, 1), (2, 0)):
        with pytest.raises(ValueError, match="don't fit"):
            class_codes(classes, dim)
