"""`instance-nerf edit` on a trained run, and what the other commands then see."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from instance_nerfstudio.cli import main
from instance_nerfstudio.edits.edits_file import EDITS_FILE


@pytest.fixture
def edit(trained: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    config = trained.config.get_base_dir() / "config.yml"

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["instance-nerf", "edit", "--load-config", str(config), *arguments])
        main()

    yield run
    (config.parent / EDITS_FILE).unlink(missing_ok=True)
    trained.pipeline.model.edits_store.ignore_file()


def test_edits_from_a_terminal(edit: Any, trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    edit("--action", "rename", "--ids", "300", "--to", "blue globe")
    edit("--action", "recolour", "--ids", "300", "--to", "#ff8000")
    edit("--action", "hide", "--ids", "1")
    shown = capsys.readouterr().out
    assert "300  blue globe  #ff8000" in shown
    assert "2 instances, 1 of them shown" in shown
    store = trained.pipeline.model.edits_store
    store._current = None  # as in the next command
    state = store.current()
    assert (state.names, state.hidden, state.colours) == ({300: "blue globe"}, {1}, {300: (255, 128, 0)})
    edit("--action", "undo")
    store._current = None
    assert store.current().hidden == set()


def test_merged_instances_in_the_terminal(edit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    edit("--action", "merge", "--ids", "300", "1")
    assert "300  with 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--action", "hide", "--ids", "8"), "no instance 8"),
        (("--action", "rename", "--ids", "1"), "--to"),
        (("--action", "hide", "--ids", "1", "--to", "x"), "--to"),
        (("--action", "recolour", "--ids", "1", "--to", "red"), "RRGGBB"),
        (
            (
                "--action",
                "undo",
            ),
            "nothing to undo",
        ),
    ],
)
def test_mistakes_end_in_one_line(arguments: tuple[str, ...], message: str, edit: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        edit(*arguments)
    assert message in str(stop.value)
    assert "\n" not in str(stop.value)


def test_run_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["instance-nerf", "edit", "--load-config", str(tmp_path / "config.yml")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert str(stop.value).startswith(f"error: {tmp_path / 'config.yml'}")
