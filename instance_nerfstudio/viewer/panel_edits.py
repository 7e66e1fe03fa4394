"""What the panel's buttons change about the run's instances."""

from collections.abc import Callable
from typing import Any

from instance_nerfstudio.edits.edits_file import EditsStore
from instance_nerfstudio.edits.instance_edits import Action, Edit
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.viewer.instance_list import InstanceList
from instance_nerfstudio.viewer.panel_gui import PanelGui

_RENDERED: tuple[Action, ...] = ("hide", "show", "isolate", "show_all", "merge")


class PanelEdits:
    """Steps of the user's; each takes the number of the browser that asked, raises `InputError`, and says what it did.

    Args:
        gui: the panel's widgets, with new names and colours.
        store: the run's edits.
        instances: the list, with the selection.
        changed: called after each step with whether the frames are others now, and not just in other colours.
        say: takes messages.
    """

    def __init__(
        self,
        gui: PanelGui,
        store: EditsStore,
        instances: InstanceList,
        changed: Callable[[bool], None],
        say: Callable[[str], None],
    ) -> None:
        self._gui, self._store, self._instances = gui, store, instances
        self._changed, self._say = changed, say

    def selected(self, least: int = 1) -> tuple[int, ...]:
        """The selected instances, in the order in which they were selected.

        Raises:
            InputError: fewer than wanted.
        """
        ids = self._instances.selection.ids
        if len(ids) < least:
            raise InputError("Select an object first." if least == 1 else "Select two objects or more.")
        return ids

    def isolate(self, _: int | None) -> None:
        self._edit("isolate", self.selected())
        self._say("Isolated: everything else is taken away.")

    def hide(self, _: int | None) -> None:
        self._edit("hide", self.selected())
        self._say("Hidden. What no photo showed behind stays empty.")

    def show(self, _: int | None) -> None:
        self._edit("show", self.selected())
        self._say("Shown again.")

    def show_all(self, _: int | None) -> None:
        self._edit("show_all", ())
        self._say("Everything is shown.")

    def hide_all(self, _: int | None) -> None:
        self._edit("hide", tuple(info.id for info in self._instances.infos))
        self._say("All instances are hidden.")

    def rename(self, _: int | None) -> None:
        first, *_others = self.selected()
        self._edit("rename", (first,), self._gui.name.value)
        self._say(f"Instance {first} is renamed.")

    def categorize(self, _: int | None) -> None:
        self._edit("categorize", self.selected(), self._gui.category.value)
        self._say("The category is set.")

    def recolour(self, _: int | None) -> None:
        red, green, blue = (int(c) for c in self._gui.colour.value)
        self._edit("recolour", self.selected(), (red, green, blue))
        self._say("The colour is set.")

    def merge(self, _: int | None) -> None:
        ids = self.selected(2)
        self._edit("merge", ids)
        self._say(f"Merged into instance {ids[0]}.")

    def undo(self, _: int | None) -> None:
        undone = self._store.undo()
        self._changed(True)
        self._say("There is nothing to undo." if undone is None else f"Undone: {undone.action.replace('_', ' ')}.")

    def _edit(self, action: Action, ids: tuple[int, ...], value: Any = None) -> None:
        self._store.apply(Edit(action, ids, value))
        self._changed(action in _RENDERED)
