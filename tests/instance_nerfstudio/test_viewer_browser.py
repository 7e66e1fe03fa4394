"""`ns-viewer` in a real browser: instances in their colours, and the panel that selects and corrects them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from ball_scene import shrunken_config, train
from PIL import Image
from scipy import ndimage
from test_commands import NAMES, environment, make_tiny_room, script

from instance_nerfstudio.masks.instance_masks import read_instance_mask
from instance_nerfstudio.masks.instances_json import InstanceInfo, write_instances_json
from rcnn.instance_palette import BACKGROUND_COLOUR, colour_instances_uint8

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.skipif(find_spec("playwright") is None, reason='needs playwright: pip install -e ".[test]"'),
]

WAIT = 120_000  # milliseconds; a frame takes seconds on a busy core
# WebGL on the CPU; no sandbox, because tests may run as root in a container.
FLAGS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
WINDOW = {"width": 900, "height": 700}
# The part of the window that only the canvas covers.
VIEW = {"x": 20, "y": 80, "width": 540, "height": 500}
# Keeps what the panel says while the training views are looked at.
LISTEN = """() => {
    window.heard = new Set();
    new MutationObserver(() => {
        const found = document.body.innerText.match(/Looking at \\d+ training views, once \\(\\d+ of \\d+\\)/);
        if (found) window.heard.add(found[0]);
    }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
# Chromium's colour arithmetic may be off by one; the palette's colours differ by more.
TOLERANCE = 2
MAX_RES = 160
COLOURS = {instance: colour_instances_uint8(np.array(instance)).astype(int) for instance in NAMES}


@pytest.fixture(scope="module")
def run(closed_network: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a short training on a room."""
    folder = tmp_path_factory.mktemp("viewer")
    room = make_tiny_room(folder / "room")
    # With boxes, the panel looks at the training views when something is hidden, and not before.
    described = [InstanceInfo(i, name, box_world=(0.0, 0.0, 0.0, 2.0, 2.0, 2.0)) for i, name in NAMES.items()]
    write_instances_json(room / "instances.json", described)
    config = shrunken_config(room, folder / "outputs", instance_start_step=5)
    config.max_num_iterations = 150
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in `environment`
    trainer = train(config)
    torch.set_num_threads(threads)
    return trainer.config.get_base_dir()


@pytest.fixture(scope="module")
def viewer(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen]]:
    with viewing(run, tmp_path_factory.mktemp("process")) as viewer:
        yield viewer


@contextmanager
def viewing(run: Path, folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """Address and process of a viewer of a run; `folder` is where it works."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--load-config", str(run / "config.yml"), "--viewer.websocket-port", str(port)]
    arguments += ["--viewer.image-format", "png", "--viewer.max-num-display-images", "4"]
    log = folder / "viewer.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [script("ns-viewer"), *arguments],
            cwd=folder,
            env=environment(folder / "torch"),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}/"
        deadline = time.monotonic() + 180
        while not _answers(url):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
        yield url, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        # Past any proxy of the environment. GET, because the viewer refuses HEAD.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(url, timeout=5).status == 200
    except OSError:
        return False


class Browser:
    """A page of the viewer, and what is to be seen in it.

    Args:
        page: Playwright's.
        url: the viewer's.
        folder: gets screenshots.
        colours: of the instances of the run.
    """

    def __init__(self, page: Any, url: str, folder: Path, colours: Mapping[int, np.ndarray] = COLOURS) -> None:
        self.page, self.url, self.folder, self.colours = page, url, folder, colours
        # The page asks for a logo and for statistics from elsewhere.
        page.route(
            "**/*",
            lambda route: route.continue_() if route.request.url.startswith((url, "data:", "blob:")) else route.abort(),
        )
        self.load()

    def load(self) -> None:
        """Opens the page and waits for the first frame: the outputs are known once it is rendered."""
        self.page.goto(self.url, wait_until="domcontentloaded", timeout=WAIT)
        self.page.wait_for_selector("text=Output type", timeout=WAIT)
        box = self.page.get_by_label("Output type").first.element_handle(timeout=WAIT)
        self.page.wait_for_function("box => box.value !== 'not set'", arg=box, timeout=WAIT)

    def picture(self) -> np.ndarray:
        """The 3D view (H, W, 3)."""
        path = self.folder / f"{time.monotonic_ns()}.png"
        self.page.screenshot(path=path, clip=VIEW)
        return np.asarray(Image.open(path).convert("RGB")).astype(int)

    def shares(self) -> dict[int, float]:
        """Which part of the view has the colour of each instance."""
        return {i: float(_has_colour(self.picture(), colour).mean()) for i, colour in self.colours.items()}

    def wait(self, condition: Callable[[dict[int, float]], bool], seconds: float = WAIT / 1000) -> dict[int, float]:
        """Shares once they meet a condition, or after a while."""
        deadline = time.monotonic() + seconds
        while not condition(shares := self.shares()) and time.monotonic() < deadline:
            time.sleep(0.3)
        return shares

    def settled(self) -> np.ndarray:
        """The view once it rests: the camera swings on after a drag, and a coarse frame comes before a fine one."""
        last, since = self.picture(), time.monotonic()
        deadline = since + WAIT / 1000
        while time.monotonic() < min(since + 1.5, deadline):
            time.sleep(0.3)
            if not np.array_equal(picture := self.picture(), last):
                last, since = picture, time.monotonic()
        return last

    def wait_for(self, text: str) -> None:
        """Waits until the panel says something."""
        self.page.get_by_text(text).first.wait_for(timeout=WAIT)

    def press(self, button: str, answer: str | None = None) -> None:
        """Clicks a button of the panel and waits for the panel's answer."""
        self.page.get_by_role("button", name=button, exact=True).click()
        if answer is not None:
            self.wait_for(answer)

    def field(self, label: str) -> Any:
        """The input beside a label: viser doesn't tie them."""
        labels = self.page.locator("label", has_text=re.compile(f"^{label}$"))
        return labels.first.locator("xpath=following::input[not(@type='range') and not(@type='hidden')][1]")

    def open(self, folder: str) -> None:
        """Unfolds a part of the panel."""
        self.page.get_by_text(folder, exact=True).click()

    def render_small(self) -> None:
        """Frames of 512 pixels take seconds on a busy core."""
        self.field("Max res").fill(str(MAX_RES))
        self.field("Max res").press("Enter")

    def choose_output(self, output: str) -> None:
        box = self.page.get_by_label("Output type").first
        box.click()
        self.page.get_by_role("option", name=output, exact=True).click()
        self.page.wait_for_function("box => box.value === " + repr(output), arg=box.element_handle(), timeout=WAIT)

    def select_in_list(self, title: str, answer: str) -> None:
        self.page.get_by_label("Select", exact=True).first.click()
        self.page.get_by_role("option", name=title, exact=True).click()
        self.wait_for(answer)

    def drag(self, pixels: int) -> None:
        """Turns the camera around the scene."""
        x, y = VIEW["x"] + VIEW["width"] / 2, VIEW["y"] + VIEW["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + pixels, y, steps=10)
        self.page.mouse.up()

    def click_at(self, row: int, column: int, answer: str) -> None:
        """Arms the selection, clicks a pixel of the view, and waits for the panel's answer."""
        self.press("Select by click", "Click an object")
        self.page.wait_for_timeout(300)
        self.page.mouse.move(VIEW["x"] + column, VIEW["y"] + row)
        self.page.mouse.down()
        self.page.wait_for_timeout(100)
        self.page.mouse.up()
        self.wait_for(answer)


def _has_colour(picture: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return (abs(picture - colour) <= TOLERANCE).all(-1)


def _frame(picture: np.ndarray) -> np.ndarray:
    """Where the yellow frame of the selection is: a pixel wide, and blurred where frames are enlarged."""
    return (picture[..., 0] > 170) & (picture[..., 1] > 140) & (picture[..., 2] < 110)


def _middle_of(mask: np.ndarray) -> tuple[int, int]:
    """A pixel far from the rim of a region."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))
    assert isinstance(distance, np.ndarray)
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    assert distance[row, column] > 4
    return int(row) - 1, int(column) - 1


def _in_view(shares: dict[int, float]) -> list[int]:
    """Instances in view, the largest first."""
    return sorted((i for i, share in shares.items() if share > 0.005), key=lambda i: -shares[i])


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser(chromium: Any, viewer: tuple[str, subprocess.Popen], tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """One page for all tests, which leave it as they found it."""
    browser = Browser(chromium.new_page(viewport=WINDOW), viewer[0], tmp_path_factory.mktemp("screenshots"))
    browser.render_small()
    return browser


@pytest.fixture(autouse=True)
def viewer_lives_on(viewer: tuple[str, subprocess.Popen]) -> Iterator[None]:
    yield
    assert viewer[1].poll() is None


@pytest.fixture
def two_in_view(browser: Browser) -> tuple[Browser, list[int]]:
    """The page with output `instances`, everything shown, nothing selected, and at least two instances in view."""
    if browser.page.get_by_label("Output type").first.input_value() != "instances":
        browser.choose_output("instances")
    browser.press("Show all", "Everything is shown")
    browser.press("Clear", "0 selected")
    browser.wait(lambda shares: sum(shares.values()) > 0.5)
    # Where the viewer's first camera looks depends on the room: look around. A fine frame may show less than a coarse
    # one, so the view rests before it counts.
    for _ in range(8):
        browser.settled()
        if len(in_view := _in_view(browser.shares())) > 1:
            break
        browser.drag(150)
        browser.wait(lambda shares: len(_in_view(shares)) > 1, seconds=8)
    assert len(in_view) > 1
    return browser, in_view


def test_instances_are_shown_in_their_colours(browser: Browser) -> None:
    assert browser.page.get_by_label("Output type").first.input_value() == "rgb"
    photo = browser.wait(lambda shares: sum(shares.values()) < 0.02)
    assert sum(photo.values()) < 0.02  # what follows isn't there by chance
    browser.choose_output("instances")
    shown = browser.wait(lambda shares: sum(shares.values()) > 0.5)
    assert sum(shown.values()) > 0.5, shown
    # The way back shows that the output has stopped nothing.
    browser.choose_output("rgb")
    again = browser.wait(lambda shares: sum(shares.values()) < 0.02)
    assert sum(again.values()) < 0.02


def test_click_selects_hides_and_isolates(two_in_view: tuple[Browser, list[int]], run: Path) -> None:
    browser, (largest, clicked, *_) = two_in_view
    before = browser.settled()
    row, column = _middle_of(_has_colour(before, COLOURS[clicked]))
    browser.click_at(row, column, f"Instance {clicked}, confidence")
    browser.wait_for("1 selected")
    browser.page.locator("strong", has_text=re.compile(f"^{clicked}$")).first.wait_for(timeout=WAIT)
    browser.wait(lambda shares: shares[clicked] < 0.001)
    framed = browser.picture()
    assert _frame(framed).mean() > 0.001
    assert not _frame(before).any()
    assert not _has_colour(framed[row, column], COLOURS[clicked])

    # One click picks, and the next drag turns the camera again.
    browser.drag(40)
    deadline = time.monotonic() + WAIT / 1000
    while np.array_equal(browser.picture(), framed):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    browser.drag(-40)
    browser.settled()

    browser.press("Clear", "0 selected")
    shown = browser.wait(lambda shares: shares[clicked] > 0.004)
    browser.select_in_list(f"{clicked} {NAMES[clicked]}", "1 selected")
    browser.page.evaluate(LISTEN)
    browser.press("Hide", "Hidden")
    looked = "window.heard.size > 0 && !document.body.innerText.includes('Looking at')"
    browser.page.wait_for_function(looked, timeout=WAIT)
    hidden = browser.wait(lambda shares: shares[clicked] < 0.001)
    assert hidden[clicked] < 0.001
    assert hidden[largest] > 0.5 * shown[largest]
    assert _edits(run)[-1] == {"action": "hide", "ids": [clicked]}

    browser.press("Isolate", "Isolated")
    alone = browser.wait(lambda shares: shares[clicked] > 0.003 and shares[largest] < 0.001)
    assert alone[largest] < 0.001
    assert alone[clicked] > 0.003
    dark = _has_colour(browser.settled(), np.array(BACKGROUND_COLOUR))
    assert dark.mean() > 0.25
    browser.click_at(*_middle_of(dark), "There is nothing at this place")

    browser.press("Undo", "Undone: isolate")
    browser.press("Undo", "Undone: hide")
    again = browser.wait(lambda shares: shares[largest] > 0.5 * shown[largest])
    assert again[largest] > 0.5 * shown[largest]


def test_merged_instances_share_a_colour_until_that_is_undone(
    two_in_view: tuple[Browser, list[int]], run: Path
) -> None:
    browser, (kept, merged, *_) = two_in_view
    before = browser.shares()
    browser.select_in_list(f"{kept} {NAMES[kept]}", "1 selected")
    browser.page.get_by_label("Add to selection").check()
    browser.select_in_list(f"{merged} {NAMES[merged]}", "2 selected")
    browser.press("Merge", f"Merged into instance {kept}")
    browser.page.get_by_label("Add to selection").uncheck()
    browser.press("Clear", "0 selected")
    together = browser.wait(lambda shares: shares[merged] == 0 and shares[kept] > before[kept])
    assert together[merged] == 0
    assert together[kept] > before[kept] + 0.5 * before[merged]
    browser.wait_for(f"{len(NAMES) - 1} instances")
    assert _edits(run)[-1] == {"action": "merge", "ids": [kept, merged]}
    browser.press("Undo", "Undone: merge")
    apart = browser.wait(lambda shares: shares[merged] > 0.5 * before[merged])
    assert apart[merged] > 0.5 * before[merged]


def test_names_survive_the_page(two_in_view: tuple[Browser, list[int]], run: Path) -> None:
    browser, (instance, *_) = two_in_view
    browser.select_in_list(f"{instance} {NAMES[instance]}", "1 selected")
    browser.open("Correct")
    browser.field("Name").fill("{old} <one>")
    browser.page.wait_for_timeout(500)
    browser.press("Rename", "is renamed")
    browser.wait_for("{old} <one>")
    assert _edits(run)[-1] == {"action": "rename", "ids": [instance], "name": "{old} <one>"}
    browser.load()
    browser.wait_for("{old} <one>")
    browser.press("Undo", "Undone: rename")


def test_exports_from_the_panel(two_in_view: tuple[Browser, list[int]], run: Path) -> None:
    browser, (instance, *_) = two_in_view
    shown = browser.shares()
    browser.open("Export instances")
    browser.press("Masks", "Masks of this view")
    (view,) = (run / "viewer_exports").glob("view_*")
    ids = read_instance_mask(view / "instance_masks" / "view.png")
    # The browser cuts off a part of the picture, the panel covers another.
    for i in _in_view(shown)[:2]:
        assert (ids == i).mean() == pytest.approx(shown[i], abs=0.15)
    assert np.array_equal(np.asarray(Image.open(view / "colour" / "view.png")), colour_instances_uint8(ids))
    browser.press("Objects", "Select an object first")
    browser.select_in_list(f"{instance} {NAMES[instance]}", "1 selected")
    browser.press("Objects", "1 of 1 instances")
    (folder,) = (run / "viewer_exports").glob("instances_*")
    mesh: Any = trimesh.load(folder / "meshes" / f"{instance:05d}.ply")
    assert np.isfinite(mesh.bounds).all()
    assert 0.1 < np.ptp(mesh.bounds, axis=0).max() < 20  # a part of a room, in metres


def test_two_browsers_and_one_that_is_closed_during_a_frame(
    two_in_view: tuple[Browser, list[int]], chromium: Any, tmp_path: Path
) -> None:
    browser, (instance, *_) = two_in_view
    other = Browser(chromium.new_page(viewport=WINDOW), browser.url, tmp_path)
    other.select_in_list(f"{instance} {NAMES[instance]}", "1 selected")
    browser.wait_for("1 selected")
    other.press("Hide", "Hidden")
    other.page.close()  # its frame is being rendered
    hidden = browser.wait(lambda shares: shares[instance] < 0.001)
    assert hidden[instance] < 0.001
    browser.press("Undo", "Undone: hide")
    browser.press("Clear", "0 selected")
    again = browser.wait(lambda shares: shares[instance] > 0.003)
    assert again[instance] > 0.003


def _edits(run: Path) -> list[dict[str, Any]]:
    return json.loads((run / "instance_edits.json").read_text())["edits"]
