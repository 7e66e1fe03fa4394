"""What a segmenter's classes are here: categories of generated rooms where they fit, background, or their own name.

A table is a JSON file: `background` lists classes that are no objects (walls, floors), `categories` says what others
are called here, `names` (optional) names classes by number, for sources that know numbers alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from instance_nerfstudio.errors import InputError
from rcnn.safe_files import read_json

SHIPPED = ("coco", "ade20k")
# How COCO's panoptic classes say what they comprise.
_COMPRISES = re.compile(r"(-(other|stuff|merged))+$")


@dataclass(frozen=True)
class ClassTable:
    """Maps names of classes to categories."""

    background: frozenset[str]
    """Classes whose pixels belong to no object."""
    categories: dict[str, str]
    """What classes are called here; others keep their own name."""
    names: tuple[str, ...] = ()
    """Classes by number."""

    def is_background(self, name: str) -> bool:
        """Whether a class is no object."""
        return _key(name) in self.background

    def category(self, name: str) -> str:
        """What a class is called here: lower case, with `_` for blanks, such as `coffee_table`."""
        key = _key(name)
        return self.categories.get(key) or key.replace(" ", "_")


def load_class_table(name: str) -> ClassTable:
    """A table that comes with this package (`coco`, `ade20k`), or one in a JSON file.

    Raises:
        InputError: no such table, or a file that is none.
    """
    if name in SHIPPED:
        text = resources.files("instance_nerfstudio.segments").joinpath("classes", f"{name}.json").read_text("utf-8")
        return _parse(json.loads(text), name)
    if not name.endswith(".json"):
        raise InputError(f"--classes {name}: no such table; use one of {', '.join(SHIPPED)}, or a .json file")
    return _parse(read_json(Path(name)), name)


def _parse(content: dict[str, Any], source: str) -> ClassTable:
    background, categories = content.get("background", []), content.get("categories", {})
    names = content.get("names", [])
    lists = [background, names, list(categories.values()) if isinstance(categories, dict) else None]
    if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in lists):
        raise InputError(
            f'{source}: is no class table; write {{"background": ["wall"], "categories": {{"couch": "sofa"}}}}'
        )
    return ClassTable(
        frozenset(_key(name) for name in background), {_key(a): b for a, b in categories.items()}, tuple(names)
    )


def _key(name: str) -> str:
    """The first of ADE20K's synonyms (`painting, picture`), without what COCO's classes comprise (`table-merged`)."""
    return _COMPRISES.sub("", re.split("[,;]", name)[0].strip().lower())
