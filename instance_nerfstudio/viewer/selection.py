"""Which instances are selected, and the part of a long list that is shown."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from instance_nerfstudio.masks.instances_json import InstanceInfo

PAGE = 10


@dataclass
class Selection:
    """Selected ids, in the order in which they were selected: the first one is what others merge into."""

    ids: tuple[int, ...] = ()

    def pick(self, instance: int, add: bool) -> None:
        """Selects an instance alone; or adds it, or takes it out when it is there."""
        if not add:
            self.ids = (instance,)
        elif instance in self.ids:
            self.ids = tuple(i for i in self.ids if i != instance)
        else:
            self.ids = (*self.ids, instance)

    def keep(self, present: Collection[int]) -> None:
        """Drops what is no instance of its own any more."""
        self.ids = tuple(i for i in self.ids if i in present)


@dataclass(frozen=True)
class InstanceRow:
    """What the list says of an instance."""

    info: InstanceInfo
    shown: bool = True
    """Whether its matter is rendered."""

    @property
    def title(self) -> str:
        """Its name, else its category, with the id."""
        return f"{self.info.id} {self.info.name or self.info.category}"

    @property
    def size(self) -> str:
        """Edges of its box in world units, as far as it is known."""
        box = self.info.box_world
        if box is None:
            return ""
        return "×".join(f"{high - low:.2f}" for low, high in zip(box[:3], box[3:], strict=True))


def filter_rows(rows: Sequence[InstanceRow], text: str) -> list[InstanceRow]:
    """Rows whose id, name or category holds the text."""
    wanted = text.strip().lower()
    return [row for row in rows if wanted in f"{row.info.id} {row.info.name} {row.info.category}".lower()]


def page_of(rows: Sequence[InstanceRow], page: int) -> tuple[Sequence[InstanceRow], int, int]:
    """The rows of a page, the page that there is, and how many there are: a browser never gets a list of thousands."""
    pages = max(1, -(-len(rows) // PAGE))
    page = min(max(page, 0), pages - 1)
    return rows[page * PAGE : (page + 1) * PAGE], page, pages


def rows_as_markdown(rows: Sequence[InstanceRow], selected: Collection[int]) -> str:
    """A line for each instance, beginning with its colour, beside which the viewer draws a swatch."""
    lines = []
    for row in rows:
        info = row.info
        mark = ("✓ " if info.id in selected else "") + ("" if row.shown else "⊘ ")
        assert info.colour is not None
        colour = "#{:02x}{:02x}{:02x}".format(*info.colour)
        named = f"{plain(info.name)} ({plain(info.category)})" if info.name else plain(info.category)
        lines.append(f"`{colour}` {mark}**{info.id}** {named}, {info.score:.2f}{row.size and f', {row.size}'}")
    return "  \n".join(lines)


def plain(text: str) -> str:
    """Text as it is, where the viewer would read markup and even code."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)
