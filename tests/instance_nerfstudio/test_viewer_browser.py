"""`ns-viewer` in a real browser: choosing the output `instances` fills the view with the colours of instances."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_commands import NAMES, environment, make_tiny_room, script

from rcnn.instance_palette import colour_instances_uint8

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
# The part of the window that only the canvas covers.
VIEW = {"x": 20, "y": 80, "width": 540, "height": 500}
# Chromium's colour arithmetic may be off by one; the palette's colours differ by more.
TOLERANCE = 2


@pytest.fixture
def viewer(
    make_config: Callable[..., Any], train: Callable[[Any], Any], tmp_path: Path
) -> Iterator[tuple[str, subprocess.Popen]]:
    """Address and process of a viewer that shows a room after a short training."""
    config = make_config(make_tiny_room(tmp_path / "room"), tmp_path / "outputs", instance_start_step=5)
    config.max_num_iterations = 150
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in `environment`
    trainer = train(config)
    torch.set_num_threads(threads)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--load-config", str(trainer.config.get_base_dir() / "config.yml")]
    arguments += ["--viewer.websocket-host", "127.0.0.1", "--viewer.websocket-port", str(port)]
    arguments += ["--viewer.image-format", "png", "--viewer.max-num-display-images", "4"]
    log = tmp_path / "viewer.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [script("ns-viewer"), *arguments],
            cwd=tmp_path,
            env=environment(tmp_path / "torch"),
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


def _shares(screenshot: Path) -> dict[int, float]:
    """Which part of the view has the colour of each instance."""
    picture = np.asarray(Image.open(screenshot).convert("RGB")).astype(int)
    colours = {instance: colour_instances_uint8(np.array(instance)).astype(int) for instance in NAMES}
    return {i: float((abs(picture - colour) <= TOLERANCE).all(-1).mean()) for i, colour in colours.items()}


def _number_in_view(shares: dict[int, float]) -> int:
    return sum(share > 0.005 for share in shares.values())


def _drag(page: Any, pixels: int) -> None:
    """Turns the camera around the scene."""
    x, y = VIEW["x"] + VIEW["width"] / 2, VIEW["y"] + VIEW["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=10)
    page.mouse.up()


def _choose(page: Any, output: str) -> None:
    box = page.get_by_label("Output type").first
    box.click()
    page.get_by_role("option", name=output, exact=True).click()
    page.wait_for_function("box => box.value === " + repr(output), arg=box.element_handle(), timeout=WAIT)


def test_instances_are_shown_in_their_colours(viewer: tuple[str, subprocess.Popen], tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    url, process = viewer
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 900, "height": 600})
            # The page asks for a logo and for statistics from elsewhere.
            page.route(
                "**/*",
                lambda route: (
                    route.continue_() if route.request.url.startswith((url, "data:", "blob:")) else route.abort()
                ),
            )
            page.goto(url, wait_until="domcontentloaded", timeout=WAIT)
            page.wait_for_selector("text=Output type", timeout=WAIT)
            # The outputs are known once a first frame is rendered.
            box = page.get_by_label("Output type").first.element_handle(timeout=WAIT)
            page.wait_for_function("box => box.value !== 'not set'", arg=box, timeout=WAIT)
            assert box.input_value() == "rgb"

            def screenshot(name: str) -> dict[int, float]:
                page.screenshot(path=tmp_path / name, clip=VIEW)  # type: ignore[arg-type]
                return _shares(tmp_path / name)

            def wait_until(
                name: str, condition: Callable[[dict[int, float]], bool], seconds: float = WAIT / 1000
            ) -> dict[int, float]:
                deadline = time.monotonic() + seconds
                while not condition(shares := screenshot(name)) and time.monotonic() < deadline:
                    time.sleep(1)
                return shares

            photo = wait_until("rgb.png", lambda shares: sum(shares.values()) < 0.02)
            assert sum(photo.values()) < 0.02  # what follows isn't there by chance

            _choose(page, "instances")
            shown = wait_until("instances.png", lambda shares: sum(shares.values()) > 0.5)
            assert sum(shown.values()) > 0.5, shown

            # Where the viewer's first camera looks depends on the room: look around until two instances are in view.
            for _ in range(8):
                if _number_in_view(shown) > 1:
                    break
                _drag(page, 150)
                shown = wait_until("instances.png", lambda shares: _number_in_view(shares) > 1, seconds=8)
            assert _number_in_view(shown) > 1, shown

            # The way back shows that the output has stopped nothing.
            _choose(page, "rgb")
            again = wait_until("rgb_again.png", lambda shares: sum(shares.values()) < 0.02)
            assert sum(again.values()) < 0.02
            assert process.poll() is None
        finally:
            browser.close()
