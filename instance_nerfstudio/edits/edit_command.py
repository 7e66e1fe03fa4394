"""`instance-nerf edit`: what the viewer's panel changes about instances, from a terminal."""

from pathlib import Path
from typing import Literal

from rich.console import Console

from instance_nerfstudio.compat import allow_numpy_scalars_in_checkpoints
from instance_nerfstudio.edits.edits_file import EDITS_FILE, EditsStore, RunIdentity
from instance_nerfstudio.edits.instance_edits import Action, Edit, InstanceEdits
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.frozen_field.radiance_checkpoint import find_checkpoint, read_state

_IDS = "_model.instance_head.instance_ids"


def edit_run(load_config: Path, action: Action | Literal["undo", "list"], ids: tuple[int, ...], to: str | None) -> None:
    """Applies one step to the run of a config.yml and prints what is edited now.

    Raises:
        InputError: no such run, one without instances, or a step that can't be.
    """
    allow_numpy_scalars_in_checkpoints()
    run = load_config.resolve().parent
    checkpoint = find_checkpoint(load_config)
    state = read_state(checkpoint)
    if _IDS not in state:
        raise InputError(f"{checkpoint}: has no instances; train with ns-train instance-nerfacto")
    known = tuple(i for i in state[_IDS].tolist() if i > 0)
    identity = RunIdentity(f"{run.parent.name}/{run.name}", known)
    store = EditsStore(run / EDITS_FILE, lambda: identity)
    if action == "undo":
        if store.undo() is None:
            raise InputError(f"{run / EDITS_FILE}: there is nothing to undo")
    elif action != "list":
        if (to is not None) != (action in ("rename", "categorize", "recolour")):
            raise InputError(f"{action}: --to gives the new name, category or colour, and nothing else takes it")
        store.apply(Edit(action, ids, _colour(to) if action == "recolour" and to is not None else to))
    _print(store.current(), known)


def _colour(text: str) -> tuple[int, int, int]:
    digits = text.removeprefix("#")
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError as error:
        raise InputError(f"--to {text}: is no colour; write it as RRGGBB, for example ff8000") from error
    return red, green, blue


def _print(edits: InstanceEdits, known: tuple[int, ...]) -> None:
    console = Console(highlight=False)
    left = [i for i in known if i not in edits.merged]
    for instance in left:
        parts = edits.parts(instance)[1:]
        notes = [
            edits.names.get(instance, ""),
            edits.categories.get(instance, ""),
            "" if instance not in edits.colours else "#{:02x}{:02x}{:02x}".format(*edits.colours[instance]),
            f"with {', '.join(map(str, parts))}" if parts else "",
            "" if edits.shows(instance) else "hidden",
        ]
        if any(notes):
            console.print(f"{instance:>6}  {'  '.join(filter(None, notes))}", markup=False)
    console.print(f"{len(left)} instances, {sum(map(edits.shows, left))} of them shown")
