"""Files that are written whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rcnn.safe_files import open_atomically, read_json, write_atomically


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "new" / "a.bin"
    write_atomically(path, b"old")

    def fail() -> None:
        with open_atomically(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 100_000])
def test_damaged_json_is_one_line_that_names_the_file(tmp_path: Path, content: str):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_of_nerfstudio_is_loaded():
    code = "import sys, rcnn.safe_files, rcnn.grids.published, rcnn.grids.slices; print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nerfstudio" not in done.stdout
    assert "torch" not in [name.strip("' []") for name in done.stdout.split(",")]
