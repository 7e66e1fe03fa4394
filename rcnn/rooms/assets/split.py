"""Which models train a detector and which test it: by model id, disjoint, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

SPLITS = ("train", "val", "test")
# Share of each class that validation and test each get, rounded; at least one model of every class of three or more.
HELD_OUT_SHARE = 0.18


def assign_splits(
    category_of: Mapping[str, str],
    families: Iterable[Sequence[str]] = (),
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Split of every model id, given its class.

    Members of a family stay together. `fixed` keeps what another pack has decided already, so that a model never
    trains in one pack and tests in the other. In every class with at least three families each split gets a model; a
    class of two has no validation model, a class of one only trains.
    """
    leader = {member: min(family) for family in map(sorted, families) for member in family}
    groups: dict[str, dict[str, list[str]]] = {}
    for model_id, category in category_of.items():
        groups.setdefault(category, {}).setdefault(leader.get(model_id, model_id), []).append(model_id)
    result: dict[str, str] = {}
    for members_of in groups.values():
        decided = {
            name: fixed[member]
            for name, members in members_of.items()
            for member in members
            if fixed and member in fixed
        }
        count = len(members_of)
        held_out = max(1, round(HELD_OUT_SHARE * count))
        wanted = {"test": held_out if count >= 2 else 0, "val": held_out if count >= 3 else 0}
        free = sorted(set(members_of) - set(decided), key=lambda name: hashlib.sha256(name.encode()).digest())
        for split in ("test", "val"):
            missing = wanted[split] - sum(value == split for value in decided.values())
            for name in free[: max(0, missing)]:
                decided[name] = split
            free = free[max(0, missing) :]
        decided |= dict.fromkeys(free, "train")
        result |= {member: decided[name] for name, members in members_of.items() for member in members}
    return {model_id: result[model_id] for model_id in category_of}
