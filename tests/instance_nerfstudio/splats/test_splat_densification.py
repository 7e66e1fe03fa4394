"""gsplat's densification fed by the reference rasterizer: Gaussians multiply and keep their features."""

import pytest
import torch
from gsplat.strategy import DefaultStrategy
from naive_splats import INTRINSICS, random_scene
from torch import Tensor, nn

from instance_nerfstudio.splats.gaussians import Gaussians
from instance_nerfstudio.splats.rasterize import Picture, rasterize

WIDTH, HEIGHT, COUNT = 21, 16, 40


def parameters() -> dict[str, nn.Parameter]:
    gaussians, _ = random_scene(COUNT, dtype=torch.float32)
    features = torch.arange(COUNT).float()[:, None].expand(COUNT, 16)  # each shows whose it is
    tensors = {
        "means": gaussians.means,
        "quats": gaussians.quats,
        "scales": gaussians.scales.log(),
        "opacities": torch.full((COUNT,), 0.5),
        "colours": torch.rand(COUNT, 3, generator=torch.Generator().manual_seed(0)),
        "instance_features": features,
    }
    return {name: nn.Parameter(tensor.clone()) for name, tensor in tensors.items()}


def view(params: dict[str, nn.Parameter], absgrad: bool) -> Picture:
    gaussians = Gaussians(params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid())
    _, viewmat = random_scene(1, dtype=torch.float32)
    return rasterize(
        gaussians, params["colours"], viewmat, torch.tensor(INTRINSICS), WIDTH, HEIGHT,
        sh_degree=None, depth=True, absgrad=absgrad, antialiased=False, rasterizer="reference",
    )  # fmt: skip


@pytest.mark.parametrize("absgrad", [False, True])
def test_children_inherit_the_features_of_their_parents(absgrad: bool) -> None:
    torch.manual_seed(0)
    params = parameters()
    before = {name: tensor.detach().clone() for name, tensor in params.items()}
    sizes = before["scales"].amax(dim=-1).exp()
    # Those with any gradient multiply in step 4: the smaller half is duplicated, the larger half split.
    strategy = DefaultStrategy(
        refine_start_iter=1, refine_every=4, grow_grad2d=1e-9, grow_scale3d=sizes.median().item(), absgrad=absgrad
    )
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([tensor], lr=0.0 if name != "colours" else 0.05) for name, tensor in params.items()
    }
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state()
    target = torch.rand(HEIGHT, WIDTH, 3)
    losses, counts, seen = [], [], torch.zeros(COUNT, dtype=torch.bool)
    for step in range(1, 8):
        picture = view(params, absgrad)
        strategy.step_pre_backward(params, optimizers, state, step, picture.info)
        features: Tensor = picture.composite(params["instance_features"])
        loss = (picture.colours - target).square().mean() + 0 * features.mean()
        loss.backward()
        if step <= 4:
            seen |= picture.info["means2d"].grad[0].any(dim=-1)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        strategy.step_post_backward(params, optimizers, state, step, picture.info)
        losses.append(loss.item())
        counts.append(len(params["means"]))
    assert losses[3] < losses[0]
    assert losses[6] < losses[4]

    small = sizes <= sizes.median()
    duplicated, split = seen & small, seen & ~small
    assert min(int(duplicated.sum()), int(split.sum()), int((~seen).sum())) > 2
    assert counts == [COUNT] * 3 + [COUNT + int(duplicated.sum()) + int(split.sum())] * 4
    assert all(len(tensor) == counts[-1] for tensor in params.values())

    features = params["instance_features"].detach()
    owner = features[:, 0].long()
    assert torch.equal(features, owner[:, None].float().expand(-1, 16))
    assert torch.equal(owner.bincount(minlength=COUNT), 1 + seen.long())
    means, scales = params["means"].detach(), params["scales"].detach()
    whole = ~split[owner]
    assert torch.equal(means[whole], before["means"][owner[whole]])
    assert torch.allclose(scales[~whole], before["scales"][owner[~whole]] - torch.tensor(1.6).log())
    away = (means[~whole] - before["means"][owner[~whole]]).norm(dim=-1)
    assert (away > 0).all()
    assert (away < 6 * sizes[owner[~whole]]).all()
