"""The survey of a run whose weights rest, made once and when it is first needed."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from jaxtyping import Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from instance_nerfstudio.beside import beside
from instance_nerfstudio.edits.seen_matter import SeenMatter, class_boxes
from instance_nerfstudio.export.instance_survey import InstanceSurvey, survey_instances

if TYPE_CHECKING:
    from instance_nerfstudio.instance_model import InstanceModel

# Pixels of the longer side, and how many training views at most.
SURVEY_SIZE, SURVEY_VIEWS = 96, 200
# States of the edits of which it is known what was seen, 16 MiB each.
_KEPT = 4


class SceneSurvey:
    """What the training views of a model show.

    Args:
        model: in evaluation mode, for good.
        cameras: training cameras, before what the camera optimizer learned of them.
    """

    def __init__(self, model: "InstanceModel", cameras: Cameras) -> None:
        self._model, self._cameras = model, cameras
        self._lock = threading.Lock()
        self._made: Future[InstanceSurvey] | None = None
        self._boxes: Tensor | None = None
        self._matter: OrderedDict[tuple[int, ...], SeenMatter] = OrderedDict()
        self.watch: Callable[[int, int], object] = lambda done, views: None
        """Takes how many views are looked at, and how many there are; both 0 at the end, also of a failure."""

    def get(self) -> InstanceSurvey:
        """The survey; whoever asks first, makes the others wait.

        Raises:
            InputError: a kind of camera that is not supported.
        """
        with self._lock:
            if self._made is None:  # in another thread: nerfstudio's viewer breaks a render off when the camera moves
                self._made = beside(self._make)
        return self._made.result()

    def matter(
        self, hidden: tuple[int, ...], instance_ids: Int[Tensor, " classes"], normalized: Callable[[Tensor], Tensor]
    ) -> SeenMatter:
        """What was seen of what is left when these ids are taken away; that of the last few questions is kept.

        Args:
            hidden: ids before any merge.
            instance_ids: id of each class.
            normalized: see `SeenMatter`.
        """
        survey = self.get()
        with self._lock:
            if self._boxes is None:
                self._boxes = class_boxes(survey, instance_ids)
            if hidden not in self._matter:
                self._matter[hidden] = SeenMatter(survey, self._boxes, hidden, normalized)
            self._matter.move_to_end(hidden)
            while len(self._matter) > _KEPT:
                self._matter.popitem(last=False)
            return self._matter[hidden]

    def use(self, survey: InstanceSurvey) -> None:
        """Takes one that is there already."""
        with self._lock:
            self._boxes = None
            self._matter.clear()
            self._made = Future()
            self._made.set_result(survey)

    def _make(self) -> InstanceSurvey:
        columns = (TextColumn("{task.description:>20}"), BarColumn(bar_width=50), TimeElapsedColumn())
        with Progress(*columns, console=CONSOLE, transient=True) as progress:
            task = progress.add_task("What photos saw", total=None)

            def advance(done: int, views: int) -> None:
                progress.update(task, completed=done, total=views)
                self.watch(done, views)

            try:
                return survey_instances(self._model, self._cameras, SURVEY_SIZE, SURVEY_VIEWS, advance)
            finally:
                self.watch(0, 0)
