"""The `nerf-rcnn` command in this process."""

import sys

import pytest

from rcnn import cli


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Runs it with these arguments."""
    monkeypatch.setattr(sys, "argv", ["nerf-rcnn", *map(str, arguments)])
    cli.main()


def refused(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    """The one line with which it ends."""
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments)
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    return stopped.value.code
