"""Edits as a sequence of steps: what they lead to, what they refuse, and what comes back from disk."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from instance_nerfstudio.edits.edits_file import EDITS_FILE, EditsStore, RunIdentity, read_edits
from instance_nerfstudio.edits.instance_edits import ClassEdits, Edit, InstanceEdits
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instances_json import InstanceInfo
from rcnn.instance_palette import colour_instances_uint8

IDS = (3, 7, 40, 300)
RUN = RunIdentity("instance-nerfacto/2026", IDS)


def after(*edits: Edit) -> InstanceEdits:
    state = InstanceEdits()
    for edit in edits:
        state = state.after(edit, IDS)
    return state


def store(folder: Path, run: RunIdentity = RUN) -> EditsStore:
    return EditsStore(folder / EDITS_FILE, lambda: run)


def test_merges_of_merges_end_in_one_instance() -> None:
    edits = after(Edit("merge", (7, 40)), Edit("merge", (300, 7)))
    ids = torch.tensor([[-1, 0, 3], [7, 40, 300]], dtype=torch.int32)
    merged = edits.merge_ids(ids)
    assert merged.dtype == torch.int32
    assert merged.tolist() == [[-1, 0, 3], [300, 300, 300]]
    with pytest.raises(InputError, match="no instance 40"):
        edits.after(Edit("hide", (40,)), IDS)


def test_merging_keeps_what_is_known_of_the_first() -> None:
    steps = [Edit("rename", (7,), "left"), Edit("categorize", (40,), "chair"), Edit("recolour", (40,), (1, 2, 3))]
    infos = [
        InstanceInfo(7, "sofa", 0.5, box_world=(0.0, 0.0, 0.0, 1.0, 1.0, 1.0)),
        InstanceInfo(40, "sofa", 0.9, box_world=(2.0, -1.0, 0.0, 3.0, 0.5, 2.0), obb_world=(0.0,) * 7),
        InstanceInfo(3, "lamp"),
    ]
    described = after(*steps, Edit("merge", (7, 40))).describe(infos)
    assert [(info.id, info.name, info.category, info.score) for info in described] == [
        (3, "", "lamp", 1.0),
        (7, "left", "sofa", 0.5),
    ]
    assert described[1].box_world == (0.0, -1.0, 0.0, 3.0, 1.0, 2.0)
    assert described[1].obb_world is None
    assert described[1].colour == tuple(colour_instances_uint8(np.array(7)))


def test_what_is_shown() -> None:
    hidden = after(Edit("hide", (7, 40)), Edit("show", (40,)))
    assert [hidden.shows(i) for i in (0, 3, 7, 40)] == [True, True, False, True]
    isolated = hidden.after(Edit("isolate", (7,)), IDS)
    assert [isolated.shows(i) for i in (0, 3, 7)] == [False, False, True]
    both = isolated.after(Edit("show", (3,)), IDS)
    assert [both.shows(i) for i in (0, 3, 7)] == [False, True, True]
    nothing = isolated.after(Edit("hide", (7,)), IDS)
    assert not any(nothing.shows(i) for i in (0, *IDS))
    assert not isolated.after(Edit("show_all"), IDS).hides_something


def test_merging_into_what_is_isolated_or_hidden() -> None:
    isolated = after(Edit("isolate", (40,)), Edit("merge", (7, 40)))
    assert isolated.isolated == {7}
    hidden = after(Edit("hide", (40,)), Edit("merge", (7, 40)))
    assert hidden.shows(7)


def test_classes_follow_the_merges() -> None:
    classes = torch.tensor([0, *IDS], dtype=torch.int32)
    edits = ClassEdits.of(after(Edit("merge", (300, 7)), Edit("hide", (300,))), classes)
    assert edits.groups is not None
    assert edits.groups.tolist() == [0, 1, 4, 3, 4]
    assert edits.shown is not None
    assert edits.shown.tolist() == [True, True, False, True, False]
    plain = ClassEdits.of(after(Edit("rename", (3,), "a")), classes)
    assert plain.groups is plain.shown is None


def test_given_colours_win() -> None:
    colours = after(Edit("recolour", (7,), (255, 0, 51))).colour(torch.tensor([7, 3, 0]))
    assert (colours[0] * 255).round().tolist() == [255, 0, 51]
    assert np.array_equal((colours[1:] * 255).round().numpy(), colour_instances_uint8(np.array([3, 0])))


@pytest.mark.parametrize(
    "edit",
    [
        Edit("merge", (3,)),
        Edit("merge", (3, 3)),
        Edit("hide", ()),
        Edit("hide", (0,)),
        Edit("isolate", (99,)),
        Edit("rename", (3,), "a\nb"),
        Edit("rename", (3,), "x" * 201),
        Edit("rename", (3,), None),
        Edit("categorize", (3,), " "),
        Edit("recolour", (3,), (1, 2, 256)),
        Edit("recolour", (3,), "red"),
        Edit("show_all", (3,)),
        Edit("explode", (3,)),  # type: ignore[arg-type]
    ],
)
def test_steps_that_can_not_be(edit: Edit) -> None:
    with pytest.raises(InputError) as caught:
        InstanceEdits().after(edit, IDS)
    assert "\n" not in str(caught.value)


def test_edits_outlive_the_process_and_can_be_undone(tmp_path: Path) -> None:
    first = store(tmp_path)
    steps = [
        Edit("rename", (3,), "größte Lampe"),
        Edit("categorize", (3, 7), "lamp"),
        Edit("recolour", (7,), (9, 8, 7)),
        Edit("merge", (40, 300)),
        Edit("hide", (3,)),
        Edit("isolate", (40, 7)),
    ]
    states = [first.current(), *map(first.apply, steps)]
    again = store(tmp_path)
    assert again.current() == states[-1] == first.current()
    assert read_edits(tmp_path / EDITS_FILE, RUN) == steps
    for edit, before in zip(reversed(steps), reversed(states[:-1]), strict=True):
        assert again.undo() == edit
        assert store(tmp_path).current() == before
    assert again.undo() is None
    assert not again.undoable


def test_steps_that_change_nothing_are_none(tmp_path: Path) -> None:
    edits = store(tmp_path)
    edits.apply(Edit("show_all"))
    assert not edits.undoable
    edits.apply(Edit("hide", (3,)))
    edits.apply(Edit("hide", (3,)))
    assert edits.undo() == Edit("hide", (3,))
    assert edits.undo() is None


def test_two_viewers_of_a_run_keep_each_others_edits(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    assert one.current() == other.current() == InstanceEdits()
    one.apply(Edit("hide", (3,)))
    assert other.apply(Edit("hide", (7,))).hidden == {3, 7}
    one.apply(Edit("merge", (40, 300)))
    with pytest.raises(InputError):
        other.apply(Edit("hide", (300,)))


BROKEN: dict[str, Callable[[dict], object]] = {
    "of another run": lambda content: content["run"].update(name="instance-nerfacto/2025"),
    "format_version": lambda content: content.update(format_version=2),
    "no list 'edits'": lambda content: content.update(edits={}),
    "edit number 2 has action": lambda content: content["edits"].append({"action": "explode", "ids": [3]}),
    "edit number 2 has ids": lambda content: content["edits"].append({"action": "hide", "ids": ["3"]}),
    "edit number 2: hide": lambda content: content["edits"].append({"action": "hide", "ids": [99]}),
    "edit number 2: rename": lambda content: content["edits"].append({"action": "rename", "ids": [3]}),
}


@pytest.mark.parametrize("message", BROKEN)
def test_unusable_files_are_named_in_one_line(message: str, tmp_path: Path) -> None:
    path = tmp_path / EDITS_FILE
    store(tmp_path).apply(Edit("hide", (3,)))
    content = json.loads(path.read_text())
    BROKEN[message](content)
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    bad = store(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        bad.current()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    bad.ignore_file()
    assert bad.current() == InstanceEdits()
    with pytest.raises(InputError, match=message):
        bad.apply(Edit("hide", (7,)))  # nothing is lost: the file stays as it is
    assert path.read_bytes() == before


def test_half_a_file_is_named_in_one_line(tmp_path: Path) -> None:
    store(tmp_path).apply(Edit("hide", (3,)))
    path = tmp_path / EDITS_FILE
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="not valid JSON"):
        store(tmp_path).current()


def test_other_ids_are_another_run(tmp_path: Path) -> None:
    store(tmp_path).apply(Edit("hide", (3,)))
    with pytest.raises(InputError, match="another run"):
        store(tmp_path, RunIdentity(RUN.name, (3, 7))).current()


def test_options_of_the_run_come_first(tmp_path: Path) -> None:
    start = InstanceEdits(hidden=frozenset({7}))
    edits = EditsStore(tmp_path / EDITS_FILE, lambda: RUN, start)
    assert edits.current().hidden == {7}
    assert edits.apply(Edit("hide", (3,))).hidden == {3, 7}
    unknown = EditsStore(None, lambda: RUN, InstanceEdits(isolated=frozenset({8})))
    with pytest.raises(InputError, match="isolated-instances: the run has no instance 8"):
        unknown.current()
