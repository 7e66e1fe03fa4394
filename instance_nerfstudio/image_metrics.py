"""PSNR, SSIM and LPIPS of pictures, without torchmetrics until a picture is scored.

nerfstudio's models take all three from torchmetrics as soon as they are built: with its plots, its texts and what of
transformers is installed, that takes longer to load than the model to build.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_importing = Lock()
"""Held while torchmetrics loads, and while others stand in its place: one would get hold of the other."""


class PSNR(nn.Module):
    """Peak signal-to-noise ratio in dB of values in [0, 1]; of equal ones, infinity."""

    def __init__(self, data_range: float = 1.0) -> None:
        super().__init__()
        self.data_range = data_range

    def forward(self, predicted: Float[Tensor, "*values"], target: Float[Tensor, "*values"]) -> Float[Tensor, ""]:
        # torchmetrics' module keeps books of all it was ever asked: more than a millisecond per iteration.
        return 10 * torch.log10(self.data_range**2 / (predicted - target).square().mean())


class UnavailableLPIPS(nn.Module):
    """Stands in for LPIPS where its AlexNet weights are not: answers NaN, has no parameters."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        return torch.full((), torch.nan)


def structural_similarity(predicted: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """SSIM of pictures, torchmetrics'."""
    return load_torchmetrics()(predicted, target)


def load_torchmetrics() -> Callable[..., Any]:
    """Loads what scores pictures, which takes a second or more; returns SSIM."""
    with _importing:
        from torchmetrics.functional import structural_similarity_index_measure
    return structural_similarity_index_measure


@contextmanager
def light_image_metrics() -> Iterator[None]:
    """While open, nerfstudio's models are built with the metrics of this file.

    With LPIPS only if its AlexNet weights are in torch's cache: torchmetrics downloads them, 233 MB, or ends in an
    error on a closed network, for one number of the evaluation. Only models should be built inside.
    """
    lpips: Any = UnavailableLPIPS
    if lpips_weights().is_file():
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity as lpips
    stand_ins = {
        "torchmetrics.functional": {"structural_similarity_index_measure": structural_similarity},
        "torchmetrics.image": {"PeakSignalNoiseRatio": PSNR},
        "torchmetrics.image.lpip": {"LearnedPerceptualImagePatchSimilarity": lpips},
    }
    with _importing:
        theirs = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
        for name, contents in stand_ins.items():
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update(contents)
        try:
            yield
        finally:
            for name in stand_ins:
                del sys.modules[name]
            sys.modules.update(theirs)


def lpips_weights() -> Path:
    """Where torch's cache has AlexNet, if at all."""
    return Path(torch.hub.get_dir(), "checkpoints", "alexnet-owt-7be5be79.pth")
