"""The workarounds for nerfstudio 1.1.5, each beside what happens without it."""

import pytest
import torchmetrics.image.lpip as lpip

from instance_nerfstudio.compat import lpips_without_download
from instance_nerfstudio.image_metrics import UnavailableLPIPS


def test_numpy_scalars_in_checkpoints(fresh_process):
    """Refused by plain torch, read with the plugin, which lets nothing else in."""
    assert fresh_process["before"] == "refused"
    assert fresh_process["after"] in ("0.25", "np.float64(0.25)")
    assert fresh_process["other"] == "refused"


@pytest.mark.parametrize("cached", [False, True])
def test_lpips_is_built_from_the_cache_or_not_at_all(tmp_path, monkeypatch, cached):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    if cached:
        (tmp_path / "hub/checkpoints").mkdir(parents=True)
        (tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth").touch()
    original = lpip.LearnedPerceptualImagePatchSimilarity
    with lpips_without_download():
        inside = lpip.LearnedPerceptualImagePatchSimilarity
    assert inside is (original if cached else UnavailableLPIPS)
    with pytest.raises(KeyError), lpips_without_download():
        raise KeyError
    assert lpip.LearnedPerceptualImagePatchSimilarity is original
