"""`ns-viewer` in a real browser on a run of splats: the same panel as for a NeRF."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ball_scene import IDS, train
from splat_scene import small_splats
from test_viewer_browser import WINDOW, Browser, chromium, pytestmark, viewing

from instance_nerfstudio.splats.splat_ply import read_splat_ply
from rcnn.instance_palette import colour_instances_uint8

__all__ = ["chromium", "pytestmark"]
COLOURS = {instance: colour_instances_uint8(np.array(instance)).astype(int) for instance in IDS}


@pytest.fixture(scope="module")
def run(closed_network: None, shared_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a short training."""
    return train(small_splats(shared_scene, tmp_path_factory.mktemp("splat_viewer") / "out")).base_dir


@pytest.fixture
def browser(run: Path, chromium: Any, tmp_path: Path) -> Iterator[Browser]:
    with viewing(run, tmp_path) as (url, process):
        browser = Browser(chromium.new_page(viewport=WINDOW), url, tmp_path, COLOURS)
        browser.render_small()
        yield browser
        assert process.poll() is None


def test_splats_are_shown_hidden_and_exported(browser: Browser, run: Path) -> None:
    browser.choose_output("instances")
    shown = browser.wait(lambda shares: min(shares.values()) > 0.001, seconds=8)
    for _ in range(8):  # where the first camera looks depends on the scene
        if min(shown.values()) > 0.001:
            break
        browser.drag(150)
        shown = browser.wait(lambda shares: min(shares.values()) > 0.001, seconds=8)
    assert min(shown.values()) > 0.001, shown
    browser.settled()

    browser.select_in_list("300 globe", "1 selected")
    browser.open("Export instances")
    browser.press("Objects", "1 of 1 instances")
    splats, ids = read_splat_ply(next((run / "viewer_exports").glob("*/splats/00300.ply")))
    assert ids is not None
    assert set(ids.tolist()) == {300}
    assert len(splats) > 20

    browser.press("Hide", "Hidden")
    browser.press("Clear", "0 selected")  # what is selected is framed, in other colours
    hidden = browser.wait(lambda shares: shares[300] < 0.0005 and shares[1] > 0.001)
    assert hidden[300] < 0.0005
    assert hidden[1] > 0.001
    browser.press("Undo", "Undone")
    again = browser.wait(lambda shares: shares[300] > 0.001)
    assert again[300] > 0.001
