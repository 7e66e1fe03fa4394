"""Scores of pictures as torchmetrics gives them, which is not loaded before one is scored."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
import torchmetrics.functional
import torchmetrics.image.lpip as lpip
from torch import Tensor

from instance_nerfstudio.image_metrics import PSNR, UnavailableLPIPS, light_image_metrics, structural_similarity

BUILDS = """
import sys, threading
import torch
from instance_nerfstudio.compile_ahead import _throwaway_model
from instance_nerfstudio.image_metrics import PSNR, load_torchmetrics
from instance_nerfstudio.model_options import instance_nerfacto_model

def loaded():
    return [name for name in sys.modules if name.split(".")[0] == "torchmetrics"]

with torch.device("meta"):
    model = _throwaway_model(instance_nerfacto_model(), torch.device("cpu"))
assert isinstance(model.psnr, PSNR)
assert not loaded(), loaded()
thread = threading.Thread(target=load_torchmetrics)
thread.start()
with torch.device("meta"):
    _throwaway_model(instance_nerfacto_model(), torch.device("cpu"))
thread.join()
from torchmetrics.image import PeakSignalNoiseRatio
print("built")
"""


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 3, 24, 32, generator=generator)
    return (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def test_scores_are_torchmetrics(pictures: tuple[Tensor, Tensor]) -> None:
    predicted, target = pictures
    theirs = torchmetrics.functional.peak_signal_noise_ratio(predicted, target, data_range=1.0)
    assert PSNR()(predicted, target).item() == pytest.approx(theirs.item(), abs=1e-4)
    assert PSNR(data_range=1.0)(target, target).item() == math.inf
    ssim: Any = torchmetrics.functional.structural_similarity_index_measure(predicted, target)
    assert structural_similarity(predicted, target).item() == pytest.approx(ssim.item())


def test_stand_in_for_lpips(pictures: tuple[Tensor, Tensor]) -> None:
    stand_in = UnavailableLPIPS(normalize=True)
    assert math.isnan(stand_in(*pictures))
    assert not stand_in.state_dict()


@pytest.mark.parametrize("cached", [False, True])
def test_others_stand_in_for_a_while(tmp_path, monkeypatch, cached: bool) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    if cached:
        (tmp_path / "hub/checkpoints").mkdir(parents=True)
        (tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth").touch()
    names = ("torchmetrics.functional", "torchmetrics.image", "torchmetrics.image.lpip")
    theirs = [sys.modules[name] for name in names]
    with light_image_metrics():
        from torchmetrics.functional import structural_similarity_index_measure
        from torchmetrics.image import PeakSignalNoiseRatio
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    assert structural_similarity_index_measure is structural_similarity
    assert PeakSignalNoiseRatio is PSNR
    wanted = lpip.LearnedPerceptualImagePatchSimilarity if cached else UnavailableLPIPS
    assert LearnedPerceptualImagePatchSimilarity is wanted
    with pytest.raises(KeyError), light_image_metrics():
        raise KeyError
    assert [sys.modules[name] for name in names] == theirs


def test_a_model_is_built_without_torchmetrics(closed_network: None) -> None:
    """Also while a thread loads it, which gets what it looks for."""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", BUILDS], capture_output=True, text=True, check=False)
    assert run.stdout.splitlines()[-1:] == ["built"], run.stderr
