"""The widgets of the panel "Instances", and nothing of what they do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from viser import GuiDropdownHandle, Icon, ViserServer

NOTHING = "choose …"


@dataclass
class PanelActions:
    """What the widgets call. Each takes the id of the browser that asked, or None."""

    pick: Callable[[int | None], None]
    repaint: Callable[[int | None], None]
    choose: Callable[[int | None], None]
    filter: Callable[[int | None], None]
    turn_page: Callable[[int], None]
    clear: Callable[[int | None], None]
    isolate: Callable[[int | None], None]
    hide: Callable[[int | None], None]
    show: Callable[[int | None], None]
    show_all: Callable[[int | None], None]
    hide_all: Callable[[int | None], None]
    rename: Callable[[int | None], None]
    categorize: Callable[[int | None], None]
    recolour: Callable[[int | None], None]
    merge: Callable[[int | None], None]
    undo: Callable[[int | None], None]
    boxes: Callable[[int | None], None]
    export_view: Callable[[int | None], None]
    export_selection: Callable[[int | None], None]


class PanelGui:
    """Builds the widgets in a folder above the viewer's tabs.

    Args:
        server: the viewer's.
        order: place of the folder.
        actions: what the widgets do.
        has_detections: whether there are a detector's boxes to show.
    """

    def __init__(self, server: ViserServer, order: float, actions: PanelActions, has_detections: bool) -> None:
        gui = server.gui
        with gui.add_folder("Instances", order=order):
            self.message = gui.add_markdown("")
            arm = gui.add_button("Select by click", icon=Icon.CLICK, hint="The next click picks an object")
            arm.on_click(lambda event: actions.pick(event.client_id))
            self.add = gui.add_checkbox("Add to selection", False, hint="Clicks add objects, or take them out")
            self.details = gui.add_markdown("")
            # Two in a row: longer words would be cut.
            _buttons(gui, "Selected", {"Isolate": actions.isolate, "Hide": actions.hide})
            _buttons(gui, "Selected", {"Show": actions.show, "Clear": actions.clear})
            _buttons(gui, "Everything", {"Show all": actions.show_all, "Hide all": actions.hide_all})
            _buttons(gui, "Edits", {"Merge": actions.merge, "Undo": actions.undo})
            with gui.add_folder("List"):
                self.filter = gui.add_text("Filter", "", hint="Part of an id, name or category")
                self.filter.on_update(lambda event: actions.filter(event.client_id))
                self.table = gui.add_markdown("")
                self.chooser: GuiDropdownHandle = gui.add_dropdown("Select", (NOTHING,))
                self.chooser.on_update(lambda event: actions.choose(event.client_id))
                turns = {"Previous": lambda _: actions.turn_page(-1), "Next": lambda _: actions.turn_page(1)}
                _buttons(gui, "Page", turns)
            with gui.add_folder("Colours", expand_by_default=False):
                self.colour_by = gui.add_dropdown("Colour by", ("instance", "category", "confidence"))
                self.opacity = gui.add_slider("Overlay opacity", 0.0, 1.0, 0.05, 0.5)
                for widget in (self.colour_by, self.opacity):
                    widget.on_update(lambda event: actions.repaint(event.client_id))  # type: ignore[arg-type]
            with gui.add_folder("Correct", expand_by_default=False):
                self.name = gui.add_text("Name", "")
                self.category = gui.add_text("Category", "")
                self.colour = gui.add_rgb("Colour", (255, 128, 0))
                _buttons(gui, "Apply", {"Rename": actions.rename, "Set category": actions.categorize})
                _buttons(gui, "Apply", {"Recolour": actions.recolour})
            with gui.add_folder("Boxes", expand_by_default=False):
                self.boxes = gui.add_checkbox("Instance boxes", False)
                self.boxes.on_update(lambda event: actions.boxes(event.client_id))
                self.detections = gui.add_checkbox("Detector boxes", False, visible=has_detections)
                self.detections.on_update(lambda event: actions.boxes(event.client_id))
            with gui.add_folder("Export instances", expand_by_default=False):
                _buttons(gui, "This view", {"Masks": actions.export_view})
                _buttons(gui, "Selected", {"Objects": actions.export_selection})


def message_gui(server: ViserServer, order: float, message: str) -> None:
    """The panel of a run without instances."""
    with server.gui.add_folder("Instances", order=order):
        server.gui.add_markdown(message)


def _buttons(gui: Any, label: str, actions: dict[str, Callable[[int | None], None]]) -> None:
    """Buttons side by side: the panel stands above all else, and must stay low."""
    group = gui.add_button_group(label, tuple(actions))
    group.value = ""

    def clicked(event: Any) -> None:
        chosen = group.value
        if chosen in actions:
            group.value = ""  # viser tells of changes alone: a second click on the same button would be none
            actions[chosen](event.client_id)

    group.on_click(clicked)
