"""The report's page: all in one file, nothing from elsewhere, and nothing in it that was not escaped."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instance_nerfstudio.masks.instance_masks import write_instance_mask
from instance_nerfstudio.masks.instances_json import InstanceInfo, write_instances_json
from instance_nerfstudio.pipeline.report.page import ReportPage, duration, write_report
from instance_nerfstudio.pipeline.report.rows import StageRow, instance_rows
from instance_nerfstudio.pipeline.report.view_pictures import WIDTH, ViewPictures, ViewRow, choose_views
from instance_nerfstudio.pipeline.view_list import NamedView, read_views, write_views
from instance_nerfstudio.segments.segment import SegmentConfig, segment_images
from rcnn.instance_palette import colour_instances_uint8

EVIL = '<script>alert("1")</script>'


@pytest.fixture
def page() -> ReportPage:
    pixel = "data:image/jpeg;base64,AAAA"
    return ReportPage(
        scene=f"kitchen {EVIL}",
        data=f"/data/{EVIL}",
        run=f"/runs/{EVIL}",
        train_config=f"/runs/{EVIL}/config.yml",
        held_out=[ViewRow(f"1 {EVIL}", pixel, pixel, None, pixel)],
        training=[ViewRow(f"2 {EVIL}", pixel, None, pixel, None), ViewRow("3", pixel, pixel, pixel, pixel)],
        stages=[StageRow("radiance", 61.0, 1.0, f"summary {EVIL}", True), StageRow("match", 0.5, 0.01, "", False)],
        instances=[],
        agreement=[("train", 0.8), ("refine-1", 0.85)],
        truth={"pq_scene": 0.7, "pq_scene_pl": 0.75, "unknown": 1.0},
        facts=[("photos", EVIL)],
        warnings=[("segment", f"skipped {EVIL}")],
        versions={"torch": EVIL},
    )


class Tags(HTMLParser):
    """Checks that tags close in order, and gathers what they refer to."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open, self.addresses, self.seen, self.words = [], [], [], []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _parse(path: Path) -> tuple[Tags, str]:
    text = path.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    return tags, text


def test_page_is_whole_escaped_and_alone(page: ReportPage, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", page)
    tags, text = _parse(tmp_path / "report.html")
    assert "script" not in tags.seen
    assert EVIL not in text
    assert len(re.findall("&lt;script&gt;", text)) >= 9
    assert all(address.startswith("data:image/jpeg;base64,") for address in tags.addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text
    words = " ".join(" ".join(tags.words).split())
    for wanted in ("1 min 01 s", "resumed", "refine-1 0.850", "not made", "PQ^scene 0.700", "skipped"):
        assert wanted in words
    assert "unknown" not in words
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_page_without_truth_warnings_and_views(page: ReportPage, tmp_path: Path) -> None:
    bare = replace(page, held_out=[], training=[], warnings=[], agreement=[], truth={})
    write_report(tmp_path / "report.html", bare)
    tags, _ = _parse(tmp_path / "report.html")
    words = " ".join(tags.words)
    unrendered = replace(page, held_out=[], training=page.training[:1])
    write_report(tmp_path / "report.html", unrendered)
    assert "matched" in " ".join(_parse(tmp_path / "report.html")[0].words)
    assert "rendered" not in " ".join(_parse(tmp_path / "report.html")[0].words).replace("rendered instances", "")
    assert "Scores" not in words
    assert "Held-out" not in words


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (119.6, "2 min 00 s"), (3661, "1 h 01 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_instances_are_described_by_both_stages(tmp_path: Path) -> None:
    exported = [InstanceInfo(7, "dining_table", 0.91, box_world=(0, 0, 0, 1, 2, 0.755)), InstanceInfo(2, "chair", 0.5)]
    write_instances_json(tmp_path / "exported.json", exported)
    write_instances_json(tmp_path / "matched.json", [InstanceInfo(2), InstanceInfo(7)], views={"7": 12}, detected=[2])
    first, second = instance_rows(tmp_path / "exported.json", tmp_path / "matched.json")
    assert (first.id, first.category, first.views, first.size, first.detected) == (2, "chair", None, "", True)
    assert (second.category, second.score, second.views, second.detected) == ("dining table", 0.91, 12, False)
    assert second.size in ("1.00 × 2.00 × 0.76", "1.00 × 2.00 × 0.75")
    write_instances_json(tmp_path / "matched.json", [InstanceInfo(2), InstanceInfo(7)], views={}, detected=None)
    assert {row.detected for row in instance_rows(tmp_path / "exported.json", tmp_path / "matched.json")} == {None}
    red, green, blue = colour_instances_uint8(np.array(7))
    assert second.colour == f"rgb({red} {green} {blue})"


def test_pictures_show_each_step(tmp_path: Path) -> None:
    photo = tmp_path / "images" / "a.png"
    photo.parent.mkdir()
    Image.new("RGB", (64, 48), (200, 40, 40)).save(photo)
    ids = np.zeros((48, 64), np.int32)
    ids[:, :32] = 300
    write_instance_mask(tmp_path / "masks" / "a.png", ids)
    segments = segment_images([photo], tmp_path / "segments", SegmentConfig(source="folder", masks=tmp_path / "masks"))
    (tmp_path / "none").mkdir()
    row = ViewPictures(segments, tmp_path / "masks", tmp_path / "none").of(NamedView("a", photo, True))
    assert row.rendered is None
    assert row.photo.startswith("data:image/jpeg;base64,")
    import base64
    import io

    assert row.matched is not None
    picture = Image.open(io.BytesIO(base64.b64decode(row.matched.partition(",")[2])))
    assert picture.size == (WIDTH, WIDTH * 48 // 64)
    left = np.asarray(picture)[100, 50].astype(int)
    colour = colour_instances_uint8(np.array(300)).astype(int)
    assert np.abs(left - (0.72 * colour + 0.28 * (0.65 * 280 / 3 + 0.35 * 128))).max() < 12
    right = np.asarray(picture)[100, -50].astype(int)
    assert np.ptp(right) < 8  # the photo's red is gone


def test_views_are_chosen_evenly_and_named_relative_to_the_scene(tmp_path: Path) -> None:
    views = [NamedView(str(i), tmp_path / "scene" / "images" / f"{i}.png", i % 2 == 0) for i in range(40)]
    assert [view.name for view in choose_views(views, 3, held_out=True)] == ["0", "20", "38"]
    assert [view.name for view in choose_views(views, 2, held_out=False)] == ["1", "39"]
    assert choose_views(views[::2], 2, held_out=False) == []
    (tmp_path / "scene").mkdir()
    write_views(tmp_path / "views.json", views, tmp_path / "scene")
    (tmp_path / "scene").rename(tmp_path / "moved")
    moved = read_views(tmp_path / "views.json", tmp_path / "moved")
    assert moved[1] == NamedView("1", tmp_path / "moved" / "images" / "1.png", False)
