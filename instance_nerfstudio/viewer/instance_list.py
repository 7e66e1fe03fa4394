"""The list of instances in the panel: rows, pages, what is selected, and the widgets that show it."""

import threading
from collections.abc import Callable, Sequence

from instance_nerfstudio.edits.edits_file import EditsStore
from instance_nerfstudio.edits.instance_edits import InstanceEdits
from instance_nerfstudio.masks.instances_json import InstanceInfo
from instance_nerfstudio.viewer.panel_gui import NOTHING, PanelGui
from instance_nerfstudio.viewer.selection import InstanceRow, Selection, filter_rows, page_of, rows_as_markdown

# Selected instances whose rows are shown above the list.
_DETAILS = 5


class InstanceList:
    """Rows of the run's instances after its edits.

    Args:
        gui: the panel's widgets.
        store: the run's edits.
        described: its instances before any edit.
        lock: guards the widgets and the selection.
        selected: called when the selection has changed.
        turned: called when another part of the list is asked for.
    """

    def __init__(
        self,
        gui: PanelGui,
        store: EditsStore,
        described: Sequence[InstanceInfo],
        lock: threading.RLock,  # type: ignore[valid-type]
        selected: Callable[[], None],
        turned: Callable[[], None],
    ) -> None:
        self._gui, self._store, self._lock = gui, store, lock
        self._selected, self._turned = selected, turned
        self.described = described
        self.selection = Selection()
        self.rows: list[InstanceRow] = []
        self._page = 0

    @property
    def infos(self) -> list[InstanceInfo]:
        """All instances that there are."""
        return [row.info for row in self.rows]

    @property
    def shown(self) -> list[InstanceInfo]:
        """Those whose matter is rendered."""
        return [row.info for row in self.rows if row.shown]

    def select(self, instance: int, add: bool) -> None:
        """Selects an instance alone, or beside others; see `Selection.pick`."""
        with self._lock:
            self.selection.pick(instance, add)
            info = next(info for info in self.infos if info.id == instance)
            self._gui.name.value, self._gui.category.value = info.name, info.category
        self._selected()

    def choose(self, _: int | None) -> None:
        """Selects what the menu says."""
        chosen = self._gui.chooser.value
        if chosen != NOTHING:
            # Later: viser tells the other browsers of the choice once this returns, and theirs would be the last word.
            threading.Timer(0.1, lambda: setattr(self._gui.chooser, "value", NOTHING)).start()
            self.select(int(chosen.split()[0]), self._gui.add.value)

    def clear(self, _: int | None) -> None:
        """Selects nothing."""
        self.selection.ids = ()
        self._selected()

    def filter(self, _: int | None) -> None:
        """Shows the rows that hold the filter's text."""
        self._page = 0
        self._turned()

    def turn_page(self, step: int) -> None:
        """Shows another page."""
        self._page += step
        self._turned()

    def refresh(self) -> InstanceEdits:
        """Brings rows, selection and widgets up to date with the edits, which it returns."""
        with self._lock:
            edits = self._store.current()
            infos = edits.describe(self.described)
            self.rows = [InstanceRow(info, edits.shows(info.id)) for info in infos]
            self.selection.keep({info.id for info in infos})
            selected = self.selection.ids
            rows = filter_rows(self.rows, self._gui.filter.value)
            page, self._page, pages = page_of(rows, self._page)
            title = f"{len(rows)} instances, page {self._page + 1} of {pages}"
            self._gui.table.content = f"{title}\n\n{rows_as_markdown(page, selected)}"
            self._gui.chooser.options = (NOTHING, *(row.title for row in page))
            chosen = [row for row in self.rows if row.info.id in selected]
            chosen.sort(key=lambda row: selected.index(row.info.id))
            text = f"**{len(selected)} selected**"
            if chosen:
                text += f"\n\n{rows_as_markdown(chosen[:_DETAILS], selected)}"
            more = len(chosen) - _DETAILS
            self._gui.details.content = text if more <= 0 else f"{text}\n\nand {more} more"
        return edits
