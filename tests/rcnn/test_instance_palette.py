"""The palette: stable, distinct, the same on every path, and harmless where there is no instance."""

import numpy as np
import torch

from rcnn.instance_palette import (
    BACKGROUND_COLOUR,
    UNLABELLED_COLOUR,
    colour_instances,
    colour_instances_uint8,
    overlay,
)


def _distances(colours: np.ndarray) -> np.ndarray:
    """Pairwise distances of (N, 3) colours, without those of a colour to itself."""
    distances = np.linalg.norm(colours[:, None].astype(float) - colours[None], axis=-1)
    return distances[~np.eye(len(colours), dtype=bool)]


def test_reserved_colours():
    assert colour_instances_uint8(np.array([-1, -7, 0])).tolist() == [
        [*UNLABELLED_COLOUR],
        [*UNLABELLED_COLOUR],
        [*BACKGROUND_COLOUR],
    ]
    assert len({*BACKGROUND_COLOUR}) == 1
    assert max(BACKGROUND_COLOUR) < 64


def test_colours_never_change():
    # Files and screenshots of different releases must agree: these numbers are part of the format.
    assert colour_instances_uint8(np.array([1, 2, 3, 40, 300, 65534])).tolist() == [
        [97, 128, 224],
        [114, 160, 32],
        [227, 64, 192],
        [72, 18, 192],
        [12, 130, 65],
        [126, 47, 175],
    ]


def test_injective_and_apart_from_the_reserved_colours():
    ids = np.concatenate([[-1], np.arange(4097)])
    colours = colour_instances_uint8(ids)
    assert len(np.unique(colours, axis=0)) == len(ids)
    every = colour_instances_uint8(np.arange(1, 65535))
    assert every.max(axis=1).min() > max(BACKGROUND_COLOUR) + 64


def test_first_colours_are_well_apart():
    assert _distances(colour_instances_uint8(np.arange(0, 41))).min() > 30
    assert _distances(colour_instances_uint8(np.arange(0, 13))).min() > 36


def test_neighbours_are_apart_everywhere():
    colours = colour_instances_uint8(np.arange(1, 65535)).astype(float)
    assert np.linalg.norm(np.diff(colours, axis=0), axis=1).min() > 150


def test_torch_and_numpy_agree_to_the_byte():
    ids = torch.arange(-3, 65535).reshape(2, -1)
    colours = colour_instances(ids)
    assert colours.shape == (*ids.shape, 3)
    assert colours.dtype == torch.float32
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert np.array_equal((colours * 255).round().to(torch.uint8).numpy(), colour_instances_uint8(ids.numpy()))


def test_type_of_the_ids_does_not_matter():
    for dtype in (torch.uint8, torch.int16, torch.int32):
        ids = torch.tensor([0, 1, 2, 90], dtype=dtype)
        assert torch.equal(colour_instances(ids), colour_instances(ids.long()))
    ids = np.array([0, 300, 40000], dtype=np.uint16)
    assert np.array_equal(colour_instances_uint8(ids), colour_instances_uint8(ids.astype(np.int64)))
    assert colour_instances_uint8(np.zeros((0, 4), dtype=np.int32)).shape == (0, 4, 3)


def test_overlay_keeps_the_photo_without_an_instance():
    rgb = torch.rand(2, 3, 3)
    ids = torch.tensor([[-1, 0, 1], [2, 2, 0]])
    blended = overlay(rgb, ids, 0.25)
    assert torch.equal(blended[ids <= 0], rgb[ids <= 0])
    expected = 0.75 * rgb[ids > 0] + 0.25 * colour_instances(ids)[ids > 0]
    torch.testing.assert_close(blended[ids > 0], expected)
    torch.testing.assert_close(overlay(rgb, ids, 0.0), rgb)


def test_overlay_paints_rims_in_full_colour():
    ids = torch.zeros(7, 7, dtype=torch.int32)
    ids[1:6, 1:6] = 4
    rgb = torch.rand(7, 7, 3)
    blended = overlay(rgb, ids, 0.5, boundaries=True)
    full = colour_instances(torch.tensor(4))
    rim = torch.zeros(7, 7, dtype=torch.bool)
    rim[1:6, 1:6] = True
    rim[2:5, 2:5] = False
    torch.testing.assert_close(blended[rim], full.expand(int(rim.sum()), 3))
    torch.testing.assert_close(blended[3, 3], (rgb[3, 3] + full) / 2)
    assert torch.equal(blended[ids == 0], rgb[ids == 0])
