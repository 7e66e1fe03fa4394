"""`views.json`: the views of a scene as the stages name them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instance_nerfstudio.errors import InputError
from rcnn.safe_files import read_json, write_json


@dataclass(frozen=True)
class NamedView:
    """A photo of the scene."""

    name: str
    """Of its masks, without suffix; unique."""
    photo: Path
    held_out: bool
    """Whether it is for scoring alone."""


def write_views(path: Path, views: Sequence[NamedView], data: Path) -> None:
    """Writes the list, with photos relative to the scene: a copy of it elsewhere has the same list."""
    scene = os.path.abspath(data if data.is_dir() else data.parent)
    rows = [
        {"name": view.name, "photo": os.path.relpath(view.photo, scene), "held_out": view.held_out} for view in views
    ]
    write_json(path, {"views": rows})


def read_views(path: Path, data: Path) -> list[NamedView]:
    """Reads what `write_views` wrote, for the scene where it is now.

    Raises:
        InputError: missing or damaged.
    """
    scene = Path(os.path.abspath(data if data.is_dir() else data.parent))
    try:
        return [
            NamedView(row["name"], Path(os.path.normpath(scene / row["photo"])), bool(row["held_out"]))
            for row in read_json(path)["views"]
        ]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: is no list of views ({error!r}); delete it and project again") from error
