"""What nerfstudio logs in every step, learning rates and times, as often as everything else: it takes 1 ms a step."""

from typing import Any

from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.utils import writer
from nerfstudio.utils.misc import step_check
from nerfstudio.utils.writer import EventName, TensorboardWriter
from torch import Tensor

_TIMES = {EventName.ITER_TRAIN_TIME.value, EventName.TRAIN_RAYS_PER_SEC.value, EventName.ETA.value}


class QuietOptimizers(Optimizers):
    """nerfstudio's optimizers, which log learning rates every so many steps.

    Args:
        config: see nerfstudio.
        param_groups: see nerfstudio.
        steps_per_log: steps from one record to the next.
    """

    def __init__(self, config: dict[str, Any], param_groups: dict[str, list[Any]], steps_per_log: int) -> None:
        super().__init__(config, param_groups)
        self.steps_per_log = steps_per_log

    def scheduler_step_all(self, step: int) -> None:
        for name, scheduler in self.schedulers.items():
            scheduler.step()
            if step_check(step, self.steps_per_log, run_at_zero=True):
                rate = float(self.optimizers[name].param_groups[0]["lr"])
                writer.put_scalar(name=f"learning_rate/{name}", scalar=rate, step=step)


class QuietTensorboardWriter(TensorboardWriter):
    """nerfstudio's writer of TensorBoard files, which writes times every so many steps."""

    def __init__(self, loud: TensorboardWriter, steps_per_log: int) -> None:
        self.tb_writer, self.steps_per_log = loud.tb_writer, steps_per_log

    def write_scalar(self, name: str, scalar: float | Tensor, step: int) -> None:
        if name not in _TIMES or step_check(step, self.steps_per_log, run_at_zero=True):
            super().write_scalar(name, scalar, step)


def quiet_event_writers(steps_per_log: int) -> None:
    """Has nerfstudio's writers, which are global, write times every so many steps."""
    for place, each in enumerate(writer.EVENT_WRITERS):
        if type(each) is TensorboardWriter:
            writer.EVENT_WRITERS[place] = QuietTensorboardWriter(each, steps_per_log)
