"""Which class a catalogue's model belongs to, by the rules of `classes.json`.

`classes` lists our class names with their semantic ids and the sizes in metres that their models may have. `rules` are
tried in order: the first whose patterns are found in the lower-case name (and in the catalogue's theme) decides, and a
rule without a class means that no room wants such a thing. `models` corrects single models and says why. `families`
lists models that are one shape in several finishes, which must not be divided between training and testing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from rcnn.rooms.assets.sweethome import CatalogueEntry


@dataclass(frozen=True)
class FurnitureClass:
    """One class of things in a room."""

    name: str
    """Singular, lower case, such as `tv_stand`."""
    semantic_id: int
    """Positive and fixed for good; 0 is background."""
    min_size: tuple[float, float, float]
    """Smallest width, depth and height in metres."""
    max_size: tuple[float, float, float]
    """Largest width, depth and height in metres."""

    def fits(self, size: tuple[float, float, float]) -> bool:
        """Whether a model of this size (metres) can be what the class says."""
        bounds = zip(self.min_size, size, self.max_size, strict=True)
        return all(low - 1e-6 <= value <= high + 1e-6 for low, value, high in bounds)


@cache
def _rules() -> dict[str, Any]:
    return json.loads(resources.files("rcnn.rooms.assets").joinpath("classes.json").read_text(encoding="utf-8"))


@cache
def furniture_classes() -> dict[str, FurnitureClass]:
    """All classes by name."""
    return {
        name: FurnitureClass(name, row["semantic_id"], tuple(row["min_size"]), tuple(row["max_size"]))
        for name, row in _rules()["classes"].items()
    }


def classify(entry: CatalogueEntry) -> FurnitureClass | None:
    """The class of a catalogue row, None for what does not belong into a furnished room."""
    rules = _rules()
    correction = rules["models"].get(entry.info.model_id)
    if correction is None:
        if entry.is_opening or entry.theme in rules["skipped_themes"]:
            return None
        name = entry.info.name.lower()
        correction = next(
            (
                rule
                for rule in rules["rules"]
                if re.search(rule["name"], name) and re.fullmatch(rule.get("theme", ".*"), entry.theme)
            ),
            {},
        )
    return furniture_classes()[correction["class"]] if "class" in correction else None


def families() -> list[list[str]]:
    """Ids of models that are variants of one shape."""
    return _rules()["families"]
