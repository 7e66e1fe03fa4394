"""CascadePSP (Cheng et al., CVPR 2020), the paper's mask refiner; needs the package segmentation-refinement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instance_masks import BACKGROUND, UNLABELLED

_PACKAGE = "pip install segmentation-refinement"
_WEIGHTS = "model"
_WEIGHTS_FROM = "https://github.com/hkchengrex/CascadePSP/releases/download/v1.0/model"


class CascadePSP:
    """Refines the masks of a map one by one; each pixel takes the most likely of them.

    Args:
        device: such as "cuda:0".
        folder: where the package's weights are, the file `model`; where the package looks for them when not given.
        longest_side: pixels at which the global step works; the paper takes 900.

    Raises:
        InputError: the package or its weights are not there.
    """

    def __init__(self, device: str, folder: Path | None = None, longest_side: int = 900) -> None:
        try:
            import segmentation_refinement  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(f"CascadePSP is not installed; {_PACKAGE}, or refine without it") from error
        place = Path.home() / ".segmentation-refinement" if folder is None else folder
        if not (place / _WEIGHTS).is_file():
            # The package would fetch them by itself and, where it cannot, end in a traceback.
            raise InputError(f"{place / _WEIGHTS}: CascadePSP's weights are missing; curl -L -o it {_WEIGHTS_FROM}")
        self._refiner: Any = segmentation_refinement.Refiner(
            device=device, model_folder=str(place), download_and_check_model=False
        )
        self._longest_side = longest_side

    def __call__(self, photo: UInt8[np.ndarray, "H W 3"], ids: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, "H W"]:
        """A map with better borders.

        Args:
            photo: RGB.
            ids: -1 unlabelled, 0 background, 1.. instances. Unlabelled pixels that no mask takes stay so.
        """
        best, most = np.zeros(ids.shape, np.int32), np.full(ids.shape, 127, np.uint8)
        for number in np.unique(ids[ids > BACKGROUND]):
            mask = np.where(ids == number, 255, 0).astype(np.uint8)
            # RGB, as it was trained; the package's example hands it OpenCV's BGR.
            likely = self._refiner.refine(np.ascontiguousarray(photo), mask, fast=False, L=self._longest_side)
            won = likely > most
            best[won], most[won] = number, likely[won]
        return np.where((best == BACKGROUND) & (ids < BACKGROUND), UNLABELLED, best).astype(np.int32)
