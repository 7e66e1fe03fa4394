"""What densification is decided by is the same as in gsplat."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gsplat.strategy import DefaultStrategy
from torch import Tensor, nn

from instance_nerfstudio.splats.densification import Densification

COUNT = 30


def _info(step: int, absgrad: bool) -> dict[str, Any]:
    random = torch.Generator().manual_seed(step)
    gradients: Tensor = torch.randn(1, COUNT, 2, generator=random)
    radii = torch.randint(0, 4, (1, COUNT), generator=random, dtype=torch.int32)
    means2d = SimpleNamespace(absgrad=gradients.abs(), grad=None) if absgrad else SimpleNamespace(grad=gradients)
    return {
        "means2d": means2d, "radii": radii, "width": 40, "height": 30, "n_cameras": 1, "gaussian_ids": None,
    }  # fmt: skip


@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("by_size", [False, True])
def test_same_statistics(absgrad: bool, by_size: bool) -> None:
    theirs = DefaultStrategy(absgrad=absgrad, refine_scale2d_stop_iter=100 if by_size else 0)
    ours = Densification.of(theirs)
    assert ours == Densification(absgrad=absgrad, refine_scale2d_stop_iter=theirs.refine_scale2d_stop_iter)
    params = {"means": nn.Parameter(torch.zeros(COUNT, 3))}
    states: list[dict[str, Any]] = [strategy.initialize_state() for strategy in (theirs, ours)]
    for step in range(4):
        for strategy, state in zip((theirs, ours), states, strict=True):
            strategy._update_state(params, state, _info(step, absgrad))
    expected, got = states
    assert expected.keys() == got.keys()
    assert ("radii" in got) == by_size
    assert 0 < expected["count"].min() < expected["count"].max()
    for name in ("grad2d", "count", *(("radii",) if by_size else ())):
        torch.testing.assert_close(got[name], expected[name], rtol=1e-6, atol=1e-6)
