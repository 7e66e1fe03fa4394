"""Selecting by a click in the picture: one click is armed, picks an object, and gives navigation back."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from nerfstudio.viewer.viewer_elements import ViewerClick, ViewerControl

from instance_nerfstudio.viewer.picking import pick

if TYPE_CHECKING:
    from instance_nerfstudio.instance_model import InstanceModel


class ClickSelection:
    """Takes the pointer from the viewer for one click.

    Args:
        control: of the viewer.
        model: the model that it shows.
        lock: held while a ray is rendered.
        select: takes what is picked.
        say: takes messages.
        guarded: calls a function with an argument, and lets no exception out.
    """

    def __init__(
        self,
        control: ViewerControl,
        model: "InstanceModel",
        lock: AbstractContextManager,
        select: Callable[[int], None],
        say: Callable[[str], None],
        guarded: Callable[[Callable, ViewerClick], None],
    ) -> None:
        self._control, self._model, self._render_lock = control, model, lock
        self._select, self._say, self._guarded = select, say, guarded
        self._lock = threading.Lock()
        self._armed = False

    def arm(self, _: int | None) -> None:
        """The next click picks."""
        with self._lock:
            if self._armed:
                return
            self._armed = True
        self._control.register_pointer_cb("click", self.clicked, self._disarmed)
        self._say("Click an object in the picture.")

    def clicked(self, click: ViewerClick) -> None:
        """What viser calls."""
        self._control.unregister_pointer_cb()  # the next drag turns the camera again
        self._guarded(self._pick, click)

    def _disarmed(self) -> None:
        self._armed = False

    def _pick(self, click: ViewerClick) -> None:
        with self._render_lock:
            picked = pick(self._model, click.origin, click.direction)
        if picked.instance is None:
            self._say("There is nothing at this place.")
        elif picked.instance == 0:
            self._say("This is background, no instance.")
        else:
            self._select(picked.instance)
            self._say(f"Instance {picked.instance}, confidence {picked.confidence:.2f}")
