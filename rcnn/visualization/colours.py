"""The colours of scores and of the truth, the same in pictures and in 3D."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

TRUTH = (60, 220, 110)
"""sRGB; far from every colour of the score map."""
INK = (34, 34, 40)


def score_colours(scores: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """sRGB of scores in [0, 1] by the map plasma: perceptually uniform, from dark blue over pink to yellow."""
    levels = np.round(255 * np.clip(scores, 0, 1)).astype(np.uint8)
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_PLASMA)[:, 0, ::-1]
    return table[levels]
