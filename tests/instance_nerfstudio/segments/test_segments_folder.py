"""Segments on disk: whole, resumable, and found by the photo's exact name."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instance_masks import read_instance_mask
from instance_nerfstudio.segments import segment as segment_module
from instance_nerfstudio.segments.mask_source import Result
from instance_nerfstudio.segments.photos import Photo, name_photos
from instance_nerfstudio.segments.segment import segment_images
from instance_nerfstudio.segments.segments_folder import SEGMENTS_FILE, SourceInfo, read_segments
from instance_nerfstudio.segments.segments_writer import SegmentsWriter
from instance_nerfstudio.segments.settings import SegmentConfig
from instance_nerfstudio.segments.view_segments import ViewSegments

SIZES = ((24, 32), (24, 32), (30, 20))


def write_photo(path: Path, size: tuple[int, int], seed: int) -> Path:
    """A photo of two squares, red 100 and 200, on noise without red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    pixels[..., 0] = 0
    pixels[3:10, 2:9, 0] = 100
    pixels[12:20, 8:18, 0] = 200
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """1.png, 2.png and 10.png, the last of another shape."""
    folder = tmp_path / "scene" / "images"
    return [write_photo(folder / f"{n}.png", size, n) for n, size in zip((1, 2, 10), SIZES, strict=True)]


class RedSource:
    """Segments are the values of the red channel.

    Args:
        before: called with the place of each photo.
        version: of the source.
    """

    sequential = False

    def __init__(self, before: Callable[[Photo], None] = lambda photo: None, version: str = "1") -> None:
        self.info = SourceInfo("red", version, "none", {"threshold": 0.5})
        self.seen: list[str] = []
        self._before = before

    def segment(self, photos: Sequence[Photo], done: Sequence[ViewSegments]) -> Iterator[Result]:
        for place, photo in enumerate(photos):
            self._before(photo)
            self.seen.append(photo.name)
            red = photo.rgb()[..., 0]
            ids = np.where(red == 100, 1, np.where(red == 200, 3, 0)).astype(np.int32)
            ids[0] = -1
            yield place, ViewSegments(ids, ("chair", "nothing", "table"), np.array([0.9, 0.1, 0.75], np.float32))


@pytest.fixture
def segment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RedSource]:
    """Segments photos by their red channel; returns the source."""

    def run(photos: list[Path], out: Path, replace: bool = False, **options: object) -> RedSource:
        source = RedSource(**options)  # type: ignore[arg-type]
        monkeypatch.setattr(segment_module, "make_source", lambda *_: source)
        segment_images(photos, out, SegmentConfig(replace=replace))
        return source

    return run


Run = Callable[..., RedSource]


def test_round_trip(photos: list[Path], tmp_path: Path, segment: Run) -> None:
    out = tmp_path / "segments"
    segment(photos, out)
    folder = read_segments(out)
    assert (folder.count, folder.tracks, folder.info.source) == (6, False, "red")
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*")) == ["1.png", "10.png", "2.png", SEGMENTS_FILE]
    for photo in photos:
        view = folder.view(photo)
        red = Photo(photo, photo.name).rgb()[..., 0]
        expected = np.where(red == 100, 1, np.where(red == 200, 2, 0))  # segment 2 has no pixels and is left out
        expected[0] = -1
        np.testing.assert_array_equal(view.ids, expected)
        assert view.ids.dtype == np.int32
        assert view.categories == ("chair", "table")
        np.testing.assert_allclose(view.scores, [0.9, 0.75], atol=1e-6)
        assert not folder.is_skipped(photo)
    with Image.open(out / "1.png") as stored:
        assert stored.mode == "I;16"
        assert set(np.unique(np.asarray(stored))) == {0, 1, 2, 65535}


def test_only_what_is_missing_is_segmented_again(photos: list[Path], tmp_path: Path, segment: Run) -> None:
    out = tmp_path / "segments"
    assert segment(photos, out).seen == ["1.png", "2.png", "10.png"]
    assert segment(photos, out).seen == []
    # A PNG that is gone, one that is cut off, a record that is gone, a photo that has changed.
    whole = (out / "2.png").read_bytes()
    (out / "1.png").unlink()
    (out / "2.png").write_bytes(whole[: len(whole) // 2])
    content = json.loads((out / SEGMENTS_FILE).read_text())
    content["photos"] = [entry for entry in content["photos"] if entry["photo"] != "10.png"]
    (out / SEGMENTS_FILE).write_text(json.dumps(content))
    assert segment(photos, out).seen == ["1.png", "2.png", "10.png"]
    assert (out / "2.png").read_bytes() == whole
    write_photo(photos[1], (24, 32), seed=99)
    assert segment(photos, out).seen == ["2.png"]
    # Another photo is added, and one is not asked for: its segments stay.
    more = write_photo(photos[0].parent / "3.png", (24, 32), seed=3)
    assert segment([photos[0], more], out).seen == ["3.png"]
    assert sorted(read_segments(out).records) == ["1.png", "10.png", "2.png", "3.png"]


def test_interrupted_run_keeps_what_it_has(photos: list[Path], tmp_path: Path, segment: Run) -> None:
    out = tmp_path / "segments"

    def stop(photo: Photo) -> None:
        if photo.name == "10.png":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(photos, out, before=stop)
    assert sorted(read_segments(out).records) == ["1.png", "2.png"]
    with pytest.raises(InputError, match=r"10\.png: has no segments in .*segments; run"):
        read_segments(out).view(photos[2])
    assert segment(photos, out).seen == ["10.png"]


def test_killed_run_ends_in_the_same_files(photos: list[Path], tmp_path: Path, segment: Run) -> None:
    """Killed between a PNG and its record: the photo is segmented again."""
    segment(photos, tmp_path / "whole")
    out = tmp_path / "killed"
    writer = SegmentsWriter(out, RedSource().info)
    writer.__enter__()
    writer.add(name_photos(photos)[0], ViewSegments(np.ones((24, 32), np.int32), ("x",), np.ones(1)))
    assert (out / "1.png").is_file()
    assert read_segments(out).records == {}
    assert segment(photos, out).seen == ["1.png", "2.png", "10.png"]
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (out / file.name).read_bytes()


def test_segments_of_other_settings_are_kept_or_replaced(photos: list[Path], tmp_path: Path, segment: Run) -> None:
    out = tmp_path / "segments"
    segment(photos, out)
    before = (out / SEGMENTS_FILE).read_bytes()
    with pytest.raises(InputError, match=r"segments of red .none. made with other settings; .* --replace"):
        segment(photos, out, version="2")
    assert (out / SEGMENTS_FILE).read_bytes() == before
    assert segment(photos[:1], out, version="2", replace=True).seen == ["1.png"]
    assert sorted(p.name for p in out.iterdir()) == ["1.png", SEGMENTS_FILE]
    assert read_segments(out).info.version == "2"


def test_names_that_are_alike(tmp_path: Path, segment: Run) -> None:
    images = tmp_path / "images"
    names = ("1.png", "10.png", "left/1.png", "right/1.png", "right/1.jpg", "1.png.png")
    photos = [write_photo(images / name, (22, 20 + place), place) for place, name in enumerate(names)]
    out = tmp_path / "segments"
    segment(photos, out)
    folder = read_segments(out)
    assert set(folder.records) == set(names)
    assert len({record.file for record in folder.records.values()}) == len(names)
    for place, photo in enumerate(photos):
        assert folder.view(photo).ids.shape == (22, 20 + place)
    # Each keeps its file when the others are segmented again.
    files = {name: record.file for name, record in folder.records.items()}
    segment(list(reversed(photos)), out)
    assert {name: record.file for name, record in read_segments(out).records.items()} == files


def test_a_folder_of_photos_is_no_folder_for_segments(photos: list[Path], segment: Run) -> None:
    before = photos[0].read_bytes()
    with pytest.raises(InputError, match=r"images: holds other files and no segments\.json"):
        segment(photos, photos[0].parent)
    assert photos[0].read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("tracks"), "'tracks' is missing"),
        (lambda c: c["photos"][0].update(size=[24]), "values to unpack"),
        (lambda c: c["photos"][0].update(file="../1.png"), "no PNG in this folder"),
        (lambda c: c["photos"][0].update(sha256="x"), "sha256"),
        (lambda c: c["photos"][0]["segments"][0].update(score=float("nan")), "outside"),
        (lambda c: c["photos"][0]["segments"][0].update(id=70000), "no id"),
        (lambda c: c["photos"][0]["segments"].append(c["photos"][0]["segments"][0]), "occurs twice"),
        (lambda c: c["photos"].append(c["photos"][0]), "a photo occurs twice"),
        (lambda c: c.update(format_version=2), "has format version 2, not 1"),
    ],
)
def test_damaged_records(
    photos: list[Path], tmp_path: Path, segment: Run, change: Callable[[dict], object], message: str
) -> None:
    out = tmp_path / "segments"
    segment(photos, out)
    content = json.loads((out / SEGMENTS_FILE).read_text())
    change(content)
    (out / SEGMENTS_FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        read_segments(out)
    assert "\n" not in str(caught.value)
    assert str(out / SEGMENTS_FILE) in str(caught.value)
    with pytest.raises(InputError, match=message):
        segment(photos, out)
    assert segment(photos, out, replace=True).seen == ["1.png", "2.png", "10.png"]


def test_half_a_json_file(photos: list[Path], tmp_path: Path, segment: Run) -> None:
    out = tmp_path / "segments"
    segment(photos, out)
    (out / SEGMENTS_FILE).write_text('{"format_version": 1, "pho')
    with pytest.raises(InputError, match=r"is not valid JSON .*; delete .*segments and run"):
        read_segments(out)


def test_files_that_do_not_fit(photos: list[Path], tmp_path: Path, segment: Run) -> None:
    out = tmp_path / "segments"
    segment(photos, out)
    folder = read_segments(out)
    (out / "1.png").write_bytes((out / "10.png").read_bytes())
    with pytest.raises(InputError, match=r"1\.png: is 20x30, its photo 32x24; run"):
        folder.view(photos[0])
    Image.fromarray(np.full((24, 32), 9, np.uint16)).save(out / "1.png")
    with pytest.raises(InputError, match=r"1\.png: has segment 9, which segments\.json does not know"):
        folder.view(photos[0])
    (out / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"1\.png: .*; run `instance-nerf segment` again"):
        folder.view(photos[0])
    write_photo(photos[1], (24, 32), seed=50)
    with pytest.raises(InputError, match=r"2\.png: has changed since its segments"):
        folder.view(photos[1])


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (ViewSegments(np.zeros((12, 16), np.int32), (), np.zeros(0)), "gave segments of 16x12 for a photo of 32x24"),
        (ViewSegments(np.zeros((24, 32)), (), np.zeros(0)), "gave ids of type float64"),
        (ViewSegments(np.full((24, 32), 2, np.int32), ("a",), np.ones(1)), r"gave ids 2\.\.2 for 1 segments"),
        (ViewSegments(np.full((24, 32), -2, np.int32), (), np.ones(0)), "gave ids -2"),
        (ViewSegments(np.zeros((24, 32), np.int32), ("a",), np.array([np.nan])), "gave scores outside"),
        (ViewSegments(np.zeros((24, 32), np.int32), ("a",), np.ones(2)), "gave 1 categories and 2 scores"),
    ],
)
def test_what_a_source_must_not_give(photos: list[Path], tmp_path: Path, view: ViewSegments, message: str) -> None:
    photo = name_photos(photos)[0]
    with (
        SegmentsWriter(tmp_path / "out", SourceInfo("bad", "1", "none")) as writer,
        pytest.raises(InputError, match=message) as caught,
    ):
        writer.add(photo, view)
    assert str(photo.path) in str(caught.value)
    assert read_segments(tmp_path / "out").records == {}


def test_tracks_keep_their_numbers(photos: list[Path], tmp_path: Path) -> None:
    info = SourceInfo("tracker", "1", "none", tracks=True)
    ids = np.zeros((24, 32), np.int32)
    ids[5:9, 5:9] = 7
    categories = ("",) * 6 + ("sofa",)
    with SegmentsWriter(tmp_path / "out", info) as writer:
        writer.add(name_photos(photos)[0], ViewSegments(ids, categories, np.array([0, 0, 0, 0, 0, 0, 0.5])))
    folder = read_segments(tmp_path / "out")
    view = folder.view(photos[0])
    assert folder.tracks
    assert folder.count == 1
    np.testing.assert_array_equal(view.ids, ids)
    assert view.categories == categories
    assert view.scores.tolist() == [0, 0, 0, 0, 0, 0, 0.5]


def test_nothing_in_any_view(photos: list[Path], tmp_path: Path) -> None:
    empty = ViewSegments(np.zeros((24, 32), np.int32), (), np.zeros(0))
    with SegmentsWriter(tmp_path / "out", SourceInfo("blind", "1", "none")) as writer:
        for photo in name_photos(photos[:2]):
            writer.add(photo, empty)
    folder = read_segments(tmp_path / "out")
    assert folder.count == 0
    assert folder.view(photos[0]).categories == ()
    assert not read_instance_mask(tmp_path / "out" / "1.png").any()


def test_disk_full_is_one_line(
    photos: list[Path], tmp_path: Path, segment: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/full/2.png")

    def fill(photo: Photo) -> None:
        if photo.name == "2.png":
            monkeypatch.setattr("instance_nerfstudio.segments.segments_writer.write_instance_mask", full)

    with pytest.raises(InputError, match=r"/full/2\.png: cannot be written \(No space left on device\); make room"):
        segment(photos, tmp_path / "out", before=fill)
    assert sorted(read_segments(tmp_path / "out").records) == ["1.png"]


def test_photos_of_all_kinds(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    shown = Photo(tmp_path / "alpha.png", "alpha.png").rgb().astype(int)
    share = pixels[..., 3:] / 255
    np.testing.assert_allclose(shown, pixels[..., :3] * share + 255 * (1 - share), atol=1.01)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(Photo(tmp_path / "deep.png", "deep.png").rgb()[..., 1], pixels[..., 0])
    # A camera held upright: nerfstudio takes the pixels as they are stored.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    photo = Photo(tmp_path / "turned.jpg", "turned.jpg")
    assert photo.rgb().shape == (*photo.size(), 3) == (9, 7, 3)
    whole = (tmp_path / "alpha.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.png: cannot be read as a photo"):
        Photo(tmp_path / "cut.png", "cut.png").rgb()
    with pytest.raises(InputError, match="given twice"):
        name_photos([tmp_path / "alpha.png", tmp_path / "." / "alpha.png"])
