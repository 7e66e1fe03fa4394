"""The panel in nerfstudio's own viewer, without a browser: how it starts, and what it answers to mistakes."""

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer import Viewer
from nerfstudio.viewer.viewer_elements import ViewerClick

from instance_nerfstudio.edits.edits_file import EDITS_FILE
from instance_nerfstudio.edits.instance_edits import InstanceEdits
from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel
from instance_nerfstudio.viewer.instance_panel import InstancePanel

NEAR, FAR = 1, 300


@pytest.fixture
def open_viewer(tmp_path: Path) -> Iterator[Callable[..., InstancePanel]]:
    """`open_viewer(pipeline, host)`: a viewer of a run in `tmp_path`, and its panel."""
    opened: list[Viewer] = []

    def start(pipeline: Any, host: str = "127.0.0.1") -> InstancePanel:
        pipeline.eval()
        pipeline.model.edits_store.path = tmp_path / EDITS_FILE
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = ViewerConfig(websocket_host=host, websocket_port=port)
        log = tmp_path / "viewer.log"
        opened.append(Viewer(config, log, tmp_path, pipeline, train_lock=threading.Lock()))  # type: ignore[arg-type]
        return pipeline.model.instance_panel

    yield start
    for viewer in opened:
        viewer.viser_server.stop()


@pytest.fixture
def balls(make_pipeline: Any, put_balls: Any) -> Any:
    pipeline = make_pipeline(test_mode="inference", num_proposal_samples_per_ray=(64,), num_nerf_samples_per_ray=48)
    put_balls(pipeline.model, [[0.0, 0.0, 0.4], [0.0, 0.0, -0.5]], [0.2, 0.3])
    return pipeline


def _message(panel: InstancePanel) -> str:
    """Without what the panel says of the look at the training views, which begins when it opens."""
    return _messages(panel)[0]


def _messages(panel: InstancePanel) -> list[str]:
    return panel._gui.message.content.replace("\\", "").split("\n\n")


def _click(panel: InstancePanel, origin: tuple[float, float, float]) -> None:
    panel._actions.pick(None)
    panel._clicks.clicked(ViewerClick(origin, (0.0, 0.0, -1.0), (0.5, 0.5)))


def test_click_selects_and_gives_navigation_back(balls: Any, open_viewer: Any) -> None:
    panel = open_viewer(balls)
    _click(panel, (0.0, 0.0, 1.2))
    assert _message(panel).startswith("Instance 1, confidence")
    assert "**1** ball" in panel._gui.details.content
    assert panel.viser_server.scene._scene_pointer_cb is None
    panel._gui.add.value = True
    panel._actions.hide(None)
    _click(panel, (0.0, 0.0, 1.2))  # through what is hidden
    assert panel._list.selection.ids == (NEAR, FAR)


def test_click_on_nothing(balls: Any, open_viewer: Any) -> None:
    panel = open_viewer(balls)
    _click(panel, (0.9, 0.9, 1.2))
    assert _message(panel) == "There is nothing at this place."
    assert panel._list.selection.ids == ()
    _click(panel, (0.0, 0.0, 1.2))  # arming works again


@pytest.mark.parametrize("action", ["isolate", "hide", "merge", "rename", "recolour", "export_selection"])
def test_nothing_selected(action: str, balls: Any, open_viewer: Any, tmp_path: Path) -> None:
    panel = open_viewer(balls)
    panel._act(action, None)
    assert _message(panel).startswith("Select ")
    assert not (tmp_path / EDITS_FILE).exists()


def test_edits_of_the_panel(balls: Any, open_viewer: Any) -> None:
    panel, store = open_viewer(balls), balls.model.edits_store
    panel._list.select(FAR, add=False)
    panel._list.select(NEAR, add=True)
    panel._gui.name.value, panel._gui.category.value = "moon", "planet"
    panel._actions.rename(None)
    panel._actions.categorize(None)
    panel._gui.colour.value = (1, 2, 3)
    panel._actions.recolour(None)
    panel._actions.merge(None)
    state = store.current()
    assert (state.names, state.merged, state.colours) == ({FAR: "moon"}, {NEAR: FAR}, {FAR: (1, 2, 3)})
    assert [row.title for row in panel._list.rows] == ["300 moon"]
    assert panel._list.selection.ids == (FAR,)
    for _ in range(4):
        panel._actions.undo(None)
    assert store.current() == InstanceEdits()
    panel._actions.undo(None)
    assert _message(panel) == "There is nothing to undo."


def test_damaged_edits_file(balls: Any, open_viewer: Any, tmp_path: Path) -> None:
    (tmp_path / EDITS_FILE).write_text('{"format_version": 1')
    panel = open_viewer(balls)
    assert "not valid JSON" in _message(panel)
    assert panel.live
    camera = balls.datamanager.train_dataset.cameras[:1]
    assert set(balls.model.get_outputs_for_camera(camera)) >= {"rgb", "instances"}
    panel._list.select(NEAR, add=False)
    panel._act("hide", None)
    assert "not valid JSON" in _message(panel)
    assert (tmp_path / EDITS_FILE).read_text() == '{"format_version": 1'


def test_two_thousand_instances(make_pipeline: Any, open_viewer: Any) -> None:
    pipeline = make_pipeline(test_mode="inference")
    head = pipeline.model.instance_head
    ids = torch.arange(2001, dtype=torch.int32)
    pipeline.model.load_state_dict(
        pipeline.model.state_dict()
        | {"instance_head.instance_ids": ids, "instance_head.classifier.weight": torch.zeros(2001, 16)}
    )
    assert len(head.instance_ids) == 2001
    panel = open_viewer(pipeline)
    assert panel._gui.table.content.startswith("2000 instances, page 1 of 200")
    gc.collect()  # of the whole suite; in the middle of this it would count
    start = time.thread_time()
    panel._list.select(1234, add=False)
    panel._actions.hide(None)
    panel._actions.turn_page(1)
    assert time.thread_time() - start < 0.5  # three steps, each with a new list
    assert len(panel._gui.chooser.options) == 11
    panel._gui.filter.value = "1234"
    panel._actions.filter(None)
    assert "⊘ **1234**" in panel._gui.table.content


def test_run_without_instances(make_pipeline: Any, open_viewer: Any) -> None:
    pipeline = make_pipeline(test_mode="inference", use_instances=False)
    panel = open_viewer(pipeline)
    assert panel.live
    assert not hasattr(panel, "_gui")
    assert "rgb" in pipeline.model.get_outputs_for_camera(pipeline.datamanager.train_dataset.cameras[:1])


def test_open_server_is_warned_of(balls: Any, open_viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(CONSOLE, "print", lambda message, **_: printed.append(message))
    open_viewer(balls)
    assert not any("there is no login" in message for message in printed)
    open_viewer(balls, host="0.0.0.0")
    assert any("there is no login" in message for message in printed)


def test_frame_that_fails_is_black(balls: Any, open_viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = open_viewer(balls)
    camera = balls.datamanager.train_dataset.cameras[:1]
    names = list(balls.model.get_outputs_for_camera(camera))

    def fail(self: InstanceNerfactoModel, *_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: something")

    monkeypatch.setattr(InstanceNerfactoModel, "render", fail)
    panel._picture.frames._frames.clear()
    assert list(balls.model.get_outputs_for_camera(camera)) == names
    assert _message(panel) == "CUDA error: something"


def test_boxes_are_drawn_and_removed(balls: Any, open_viewer: Any) -> None:
    panel = open_viewer(balls)
    panel._look_around(None)
    panel._gui.boxes.value = True
    panel._actions.boxes(None)
    assert panel._boxes.instances._handle is not None
    panel._gui.boxes.value = False
    panel._actions.boxes(None)
    assert panel._boxes.instances._handle is None


@pytest.fixture
def does_not_look_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """The panel lets the training views be until it needs them."""
    monkeypatch.setattr(InstancePanel, "_look_around", lambda *_: None)


@pytest.mark.usefixtures("does_not_look_around")
def test_panel_says_what_the_first_hidden_object_waits_for(
    balls: Any, open_viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel, model = open_viewer(balls), balls.model
    cameras = balls.datamanager.train_dataset.cameras
    views, render, go_on = len(cameras), InstanceNerfactoModel.render, threading.Event()
    heard: list[str] = []

    def slow(self: InstanceNerfactoModel, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("edits") == InstanceEdits():  # a view of the survey
            heard.append(_messages(panel)[-1])
            assert go_on.wait(60)
        return render(self, *args, **kwargs)

    monkeypatch.setattr(InstanceNerfactoModel, "render", slow)
    panel._list.select(NEAR, add=False)
    panel._act("hide", None)
    assert _messages(panel) == ["Hidden. What no photo showed behind stays empty."]
    frames: list[dict[str, Any]] = []
    browser = threading.Thread(target=lambda: frames.append(model.get_outputs_for_camera(cameras[:1])))
    browser.start()
    deadline = time.monotonic() + 60
    while not heard:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    said = [f"Looking at {views} training views, once ({done} of {views}) …" for done in range(views)]
    assert _messages(panel) == ["Hidden. What no photo showed behind stays empty.", said[0]]
    panel._act("clear", None)
    panel._act("export_selection", None)
    assert _messages(panel) == ["Select an object first.", said[0]]
    assert not frames
    go_on.set()
    browser.join(60)
    assert frames[0]["rgb"].any()
    assert heard == said
    assert _messages(panel) == ["Select an object first."]
    panel._list.select(NEAR, add=False)
    panel._act("isolate", None)
    model.get_outputs_for_camera(cameras[:1])
    assert heard == said  # once


@pytest.mark.usefixtures("does_not_look_around")
@pytest.mark.parametrize("test_mode", ["inference", "val"])
def test_failed_look_at_the_training_views(
    test_mode: str, make_pipeline: Any, open_viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = open_viewer(make_pipeline(test_mode=test_mode))

    def fail(self: InstanceNerfactoModel, *_: Any, **__: Any) -> Any:
        assert len(_messages(panel)) == 2
        raise RuntimeError("CUDA error: something")

    monkeypatch.setattr(InstanceNerfactoModel, "render", fail)
    panel._list.select(NEAR, add=False)
    panel._act("export_selection", None)
    assert _messages(panel) == ["CUDA error: something"]
