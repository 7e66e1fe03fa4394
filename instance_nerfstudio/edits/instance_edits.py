"""What a user changed about the instances of a run: names, categories, colours, merges, and what is shown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instances_json import InstanceInfo
from rcnn.instance_palette import colour_instances

if TYPE_CHECKING:
    from instance_nerfstudio.edits.seen_matter import SeenMatter

Action = Literal["rename", "categorize", "recolour", "merge", "hide", "show", "isolate", "show_all"]
ACTIONS: tuple[Action, ...] = get_args(Action)
MAX_TEXT = 200


@dataclass(frozen=True)
class Edit:
    """One step of the user's."""

    action: Action
    ids: tuple[int, ...] = ()
    """Instances as they were before this step; none for `show_all`. `merge` keeps the first."""
    value: str | tuple[int, int, int] | None = None
    """New name, category or RGB colour (0 to 255)."""


@dataclass(frozen=True)
class InstanceEdits:
    """The state after some steps. Instances that were merged into others are no longer instances of their own."""

    merged: dict[int, int] = field(default_factory=dict)
    """Id -> the instance that it is part of by now, which is in no other."""
    names: dict[int, str] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    colours: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    hidden: frozenset[int] = frozenset()
    """Their matter is taken away."""
    isolated: frozenset[int] = frozenset()
    """Unless empty, all other matter is taken away, background too."""

    def shows(self, instance: int) -> bool:
        """Whether the matter of an instance (0: background) is rendered."""
        return instance not in self.hidden and (not self.isolated or instance in self.isolated)

    def hides(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Those of some ids before any merge whose matter is taken away."""
        return tuple(i for i in ids if not self.shows(self.merged.get(i, i)))

    @property
    def hides_something(self) -> bool:
        """Whether any matter is taken away."""
        return bool(self.hidden or self.isolated)

    def parts(self, instance: int) -> tuple[int, ...]:
        """The instance's own id, and those of what was merged into it."""
        return (instance, *sorted(part for part, whole in self.merged.items() if whole == instance))

    def with_everything_shown(self) -> "InstanceEdits":
        """The same with all matter, as in the photos."""
        return replace(self, hidden=frozenset(), isolated=frozenset())

    def after(self, edit: Edit, known: Iterable[int]) -> "InstanceEdits":
        """The state after one more step.

        Args:
            edit: the step.
            known: ids of the run's instances, without background.

        Raises:
            InputError: a step that can't be, with the reason and without a file's name.
        """
        _check(edit, {i for i in known if i not in self.merged})
        ids = frozenset(edit.ids)
        match edit.action:
            case "rename":
                return replace(self, names=self.names | dict.fromkeys(edit.ids, str(edit.value)))
            case "categorize":
                return replace(self, categories=self.categories | dict.fromkeys(edit.ids, str(edit.value)))
            case "recolour":
                red, green, blue = (int(c) for c in edit.value or ())
                return replace(self, colours=self.colours | dict.fromkeys(edit.ids, (red, green, blue)))
            case "merge":
                return self._merge(edit.ids)
            case "hide":
                # Hiding the last isolated instance leaves nothing, not everything.
                isolated = self.isolated - ids or self.isolated
                return replace(self, hidden=self.hidden | ids, isolated=isolated)
            case "show":
                return replace(
                    self, hidden=self.hidden - ids, isolated=self.isolated | ids if self.isolated else self.isolated
                )
            case "isolate":
                return replace(self, hidden=self.hidden - ids, isolated=ids)
            case "show_all":
                return self.with_everything_shown()

    def _merge(self, ids: Sequence[int]) -> "InstanceEdits":
        kept, rest = ids[0], frozenset(ids[1:])
        moved = {part: kept if whole in rest else whole for part, whole in self.merged.items()}
        texts = ({i: text for i, text in table.items() if i not in rest} for table in (self.names, self.categories))
        names, categories = texts
        return InstanceEdits(
            moved | dict.fromkeys(rest, kept),
            names,
            categories,
            {i: colour for i, colour in self.colours.items() if i not in rest},
            self.hidden - rest,
            self.isolated - rest | ({kept} if self.isolated & rest else frozenset()),
        )

    def merge_ids(self, ids: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Ids after the merges; -1 and 0 stay."""
        if not self.merged:
            return ids
        parts = torch.tensor(sorted(self.merged), dtype=ids.dtype, device=ids.device)
        wholes = torch.tensor([self.merged[i] for i in sorted(self.merged)], dtype=ids.dtype, device=ids.device)
        place = torch.searchsorted(parts, ids.contiguous()).clamp(max=len(parts) - 1)
        return torch.where(parts[place] == ids, wholes[place], ids)

    def colour(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch 3"]:
        """RGB in [0, 1] of merged ids: the palette's colours, or those that the user gave."""
        colours = colour_instances(ids)
        for instance, rgb in self.colours.items():
            given = torch.tensor(rgb, dtype=colours.dtype, device=colours.device) / 255
            colours = torch.where((ids == instance)[..., None], given, colours)
        return colours

    def describe(self, infos: Sequence[InstanceInfo]) -> list[InstanceInfo]:
        """Descriptions after the edits, by id: one for each instance that is left, boxes around all of its parts.

        The score of a merged instance is that of the one it was merged into.
        """
        parts: dict[int, list[InstanceInfo]] = {}
        for info in infos:
            parts.setdefault(self.merged.get(info.id, info.id), []).append(info)
        described = []
        for instance, group in sorted(parts.items()):
            own = next((info for info in group if info.id == instance), None)
            if own is None or len(group) > 1:
                own = own or InstanceInfo(instance)
                own = replace(own, box_world=_union([info.box_world for info in group]), obb_world=None)
            described.append(self.relabel(own))
        return described

    def relabel(self, info: InstanceInfo) -> InstanceInfo:
        """A description with the name, category and colour that the user gave."""
        return replace(
            info,
            name=self.names.get(info.id, info.name),
            category=self.categories.get(info.id, info.category),
            colour=self.colours.get(info.id, info.colour),
        )


@dataclass(frozen=True)
class ClassEdits:
    """Edits as a classifier's outputs take them: one entry per class, in the order of the logits."""

    edits: InstanceEdits
    ids: Int[Tensor, " classes"]
    """Id of each class after the merges."""
    groups: Int[Tensor, " classes"] | None
    """Place of the class that each class was merged into, else its own; None without merges."""
    shown: Int[Tensor, " classes"] | None
    """Whether the matter of a class is rendered (bool); None when all is."""
    seen: "SeenMatter | None" = None
    """What the training views saw, where it is known and something is not rendered."""

    @classmethod
    def of(
        cls, edits: InstanceEdits, instance_ids: Int[Tensor, " classes"], seen: "SeenMatter | None" = None
    ) -> "ClassEdits":
        """Edits of the classes with these ids, on their device."""
        ids = edits.merge_ids(instance_ids)
        listed = ids.tolist()
        groups = shown = None
        if edits.merged:
            places = {instance: place for place, instance in enumerate(instance_ids.tolist())}
            groups = torch.tensor([places[i] for i in listed], device=ids.device)
        if edits.hides_something:
            shown = torch.tensor([edits.shows(i) for i in listed], device=ids.device)
        return cls(edits, ids, groups, shown, seen)


def _check(edit: Edit, present: set[int]) -> None:
    if edit.action not in ACTIONS:
        raise InputError(f"there is no action {edit.action!r}; choose one of {', '.join(ACTIONS)}")
    least = {"show_all": 0, "merge": 2}.get(edit.action, 1)
    if len(edit.ids) < least or len(set(edit.ids)) < len(edit.ids) or (edit.action == "show_all" and edit.ids):
        wanted = "no instance" if edit.action == "show_all" else f"at least {least} different instance(s)"
        raise InputError(f"{edit.action} takes {wanted}, not {list(edit.ids)}")
    if missing := [i for i in edit.ids if i not in present]:
        raise InputError(f"{edit.action}: there is no instance {missing[0]}, or it was merged into another")
    if edit.action in ("rename", "categorize"):
        text = edit.value
        if not isinstance(text, str) or len(text) > MAX_TEXT or not text.isprintable():
            raise InputError(f"{edit.action}: a name is one line of at most {MAX_TEXT} characters, not {text!r:.80}")
        if edit.action == "categorize" and not text.strip():
            raise InputError("categorize: a category has a name, not an empty one")
    elif edit.action == "recolour":
        rgb = edit.value
        if not (isinstance(rgb, tuple) and len(rgb) == 3 and all(type(c) is int and 0 <= c <= 255 for c in rgb)):
            raise InputError(f"recolour: a colour is three integers from 0 to 255, not {rgb!r:.80}")


def _union(boxes: Sequence[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    known = [box for box in boxes if box is not None]
    if not known:
        return None
    low = [min(box[axis] for box in known) for axis in range(3)]
    return (*low, *(max(box[axis] for box in known) for axis in range(3, 6)))
