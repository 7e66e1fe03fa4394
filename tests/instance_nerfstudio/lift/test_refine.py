"""Refinement on painted pictures: borders, what segments are of, and whether a round is kept."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.lift.cascade_psp import CascadePSP
from instance_nerfstudio.lift.edge_filter import EdgeFilterConfig, follow_edges, guided_filter
from instance_nerfstudio.lift.refine import HeldOutAgreement, RefineConfig, keep_round, reassign, refine_view
from instance_nerfstudio.segments.view_segments import ViewSegments

HEIGHT, WIDTH = 96, 128


def picture() -> tuple[np.ndarray, np.ndarray]:
    """A noisy photo of a disc and a bar on a shaded wall, and the true ids, 1 and 300."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[(rows - 48) ** 2 + (columns - 40) ** 2 < 24**2] = 1
    ids[20:80, 84:110] = 300
    photo = np.full((HEIGHT, WIDTH, 3), 150.0) + 0.3 * columns[..., None]
    photo[ids == 1], photo[ids == 300] = (60, 90, 200), (200, 80, 60)
    noise = np.random.default_rng(0).normal(0, 4, photo.shape)
    return (photo + noise).clip(0, 255).astype(np.uint8), ids


def ragged(ids: np.ndarray, deviation: float = 2.5) -> np.ndarray:
    rng = np.random.default_rng(1)
    noise = [ndimage.gaussian_filter(rng.standard_normal(ids.shape), 3) for _ in range(2)]
    places = [
        np.rint(axis + deviation * n / n.std()).astype(int)
        for axis, n in zip(np.indices(ids.shape), noise, strict=True)
    ]
    return ids[places[0].clip(0, HEIGHT - 1), places[1].clip(0, WIDTH - 1)]


def segmented(ids: Any) -> ViewSegments:
    ids = np.asarray(ids, np.int32)
    count = int(ids.max(initial=0))
    return ViewSegments(ids, ("object",) * count, np.ones(count, np.float32))


def test_guided_filter_keeps_what_its_guide_shows_and_smooths_what_it_does_not() -> None:
    rng = np.random.default_rng(0)
    guide = np.zeros((32, 32, 3), np.float32)
    guide[:, 16:] = 1
    values = guide[..., 0] + 0.2 * rng.standard_normal((32, 32)).astype(np.float32)
    filtered = guided_filter(guide, values, 3, 1e-4)
    assert (filtered.shape, filtered.dtype) == ((32, 32), np.float32)
    assert np.abs(filtered[:, 15] - 0).mean() < 0.1
    assert np.abs(filtered[:, 16] - 1).mean() < 0.1
    assert (filtered - guide[..., 0]).std() < 0.5 * (values - guide[..., 0]).std()
    # Constant values stay, also at the borders.
    assert np.allclose(guided_filter(guide, np.full((32, 32), 0.7, np.float32), 3, 1e-4), 0.7, atol=1e-6)


def test_ragged_masks_move_to_the_edges_of_the_photo() -> None:
    photo, truth = picture()
    spoilt = ragged(truth)
    moved = follow_edges(photo, spoilt, config=EdgeFilterConfig(radius=0.04))
    assert moved.dtype == np.int32
    assert set(np.unique(moved)) <= {-1, 0, 1, 300}
    before = (spoilt != truth).mean()
    after = ((moved != truth) & (moved >= 0)).mean()
    assert after < 0.35 * before
    assert (moved == -1).mean() < 0.03
    # Photos of other sizes than the mask are refused, maps without instances stay.
    with pytest.raises(ValueError, match="pixels"):
        follow_edges(photo[:-1], spoilt)
    assert not follow_edges(photo, np.zeros_like(truth)).any()
    assert (follow_edges(photo, np.full_like(truth, -1)) == -1).all()


def test_unsure_pixels_have_less_to_say() -> None:
    photo, truth = picture()
    spoilt = truth.copy()
    spoilt[40:56, 16:24] = 300  # a patch in the disc that the field is hardly sure of
    sure = np.where((spoilt == 300) & (truth == 1), 0.1, 1.0).astype(np.float32)
    config = EdgeFilterConfig(radius=0.05)
    trusting = follow_edges(photo, spoilt, None, config)
    weighing = follow_edges(photo, spoilt, sure, config)
    assert (weighing[40:56, 16:24] == 1).mean() > (trusting[40:56, 16:24] == 1).mean() + 0.1


def test_segments_are_of_what_the_field_sees_in_them() -> None:
    predicted = np.array([[1, 1, 1, 1, -1, 0, 0, 2, 2, 2, 2, 0, 3, 3, -1, 4, 4, 4, 0]], np.int32)
    segments = segmented([[0, 5, 5, 5, 5, 5, 0, 1, 1, 1, 0, 0, 0, 0, 2, 3, 3, 4, -1]])
    # 5 is of 1 and adds the pixel that the field does not know; on both sides a border is disputed. 1 is of 2, with a
    # disputed pixel after it. 3 has no segment: the segmenter missed it. 2 shows nothing known. 3 and 4 are parts of 4.
    wanted = [[-1, 1, 1, 1, 1, -1, 0, 2, 2, 2, -1, 0, 3, 3, -1, 4, 4, 4, 0]]
    assert reassign(segments, predicted).tolist() == wanted


def test_segments_of_several_objects_keep_the_fields_word() -> None:
    predicted = np.array([[1, 1, 1, 2, 2, 2, 0, 0]], np.int32)
    joined = segmented([[1, 1, 1, 1, 1, 1, 1, 0]])
    assert reassign(joined, predicted).tolist() == predicted.tolist()
    mostly = segmented([[1, 1, 1, 1, 0, 0, 0, 0]])
    assert reassign(mostly, predicted).tolist() == predicted.tolist()
    with pytest.raises(ValueError, match="sizes"):
        reassign(joined, predicted[:, :-1])


def test_a_view_is_refined() -> None:
    """Ragged prediction and ragged segments of other numbers: the result is nearer to the truth than either."""
    photo, truth = picture()
    predicted = ragged(truth)
    confidence = np.full(truth.shape, 0.9, np.float32)
    confidence[:4] = 0.2
    segments = segmented(np.select([truth == 1, truth == 300], [2, 1], 0))
    config = RefineConfig(edges=EdgeFilterConfig(radius=0.04))
    refined = refine_view(photo, predicted, confidence, segments, config)
    wrong = (refined != truth) & (refined >= 0)
    assert wrong.sum() < 0.35 * (predicted != truth).sum()
    assert (refined >= 0).mean() > 0.93
    alone = refine_view(photo, predicted, confidence, None, config)
    assert ((alone != truth) & (alone >= 0)).sum() < 0.35 * (predicted != truth).sum()
    unsure = refine_view(photo, predicted, np.full_like(confidence, 0.1), None, config)
    assert (unsure == -1).all()
    with pytest.raises(ValueError, match="sizes"):
        refine_view(photo, predicted, confidence[:-1], segments)


def test_held_out_agreement_tells_better_masks_without_ids() -> None:
    _, truth = picture()
    segments = segmented(np.select([truth == 1, truth == 300], [2, 1], 0))

    def agreement(*predictions: np.ndarray) -> float:
        scores = HeldOutAgreement()
        for predicted in predictions:
            scores.add(predicted, segments)
        return scores.value()

    merged = np.where(truth > 0, 7, 0).astype(np.int32)
    assert agreement(truth) == 1
    assert agreement(truth, np.where(truth == 1, 9, truth)) == 1
    assert agreement(truth) > agreement(ragged(truth)) > agreement(merged)
    assert keep_round(agreement(ragged(truth)), agreement(truth))
    assert not keep_round(agreement(truth), agreement(ragged(truth)))
    assert not keep_round(0.9, 0.901)
    assert not keep_round(float("nan"), float("nan"))
    empty = HeldOutAgreement()
    assert np.isnan(empty.value())
    with pytest.raises(ValueError, match="one shape"):
        empty.add(truth[:-1], segments)


def test_options() -> None:
    with pytest.raises(ValueError, match="radius"):
        EdgeFilterConfig(radius=0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        RefineConfig(agree=2)


class TestCascadePSP:
    """The package's interface, played by a refiner that opens masks; its weights are not to be had here."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        calls: list[Any] = []

        class Refiner:
            def __init__(self, device: str, model_folder: str, download_and_check_model: bool) -> None:
                calls.append((device, model_folder, download_and_check_model))

            def refine(self, image: np.ndarray, mask: np.ndarray, fast: bool, L: int) -> np.ndarray:
                calls.append((image[0, 0].tolist(), np.unique(mask).tolist(), fast, L))
                return ndimage.grey_opening(mask, size=5)

        package = ModuleType("segmentation_refinement")
        package.Refiner = Refiner  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "segmentation_refinement", package)
        return calls

    def test_masks_one_by_one(self, calls: list[Any], tmp_path: Path) -> None:
        (tmp_path / "model").write_bytes(b"weights")
        refine = CascadePSP("cpu", tmp_path, longest_side=300)
        photo, truth = picture()
        ids = truth.copy()
        ids[2, :50], ids[90:] = 1, -1  # a hair that opening removes, and a part without labels
        refined = refine(photo, ids)
        assert calls[0] == ("cpu", str(tmp_path), False)
        assert calls[1:] == [(photo[0, 0].tolist(), [0, 255], False, 300)] * 2
        assert (refined[2] == 0).all()
        assert (refined[90:] == -1).all()
        inner = np.asarray(ndimage.binary_erosion(truth > 0, iterations=3), bool)
        assert (refined[inner] == truth[inner]).all()
        confidence = np.ones(truth.shape, np.float32)
        assert np.array_equal(refine_view(photo, ids, confidence, refiner=refine), refined)

    def test_missing_package_and_weights(
        self, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(InputError, match="curl -L -o"):
            CascadePSP("cpu", tmp_path)
        monkeypatch.setitem(sys.modules, "segmentation_refinement", None)
        with pytest.raises(InputError, match="pip install segmentation-refinement"):
            CascadePSP("cpu", tmp_path)
