"""Joint training of field and instance head with whole iterations as CUDA graphs."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from instance_nerfstudio.cuda_graph import RecordedStep, make_recordable
from instance_nerfstudio.instance_objective import INSTANCE_LOSSES
from instance_nerfstudio.side_stream import SideStream

if TYPE_CHECKING:
    from instance_nerfstudio.instance_trainer import InstanceTrainer


def why_not_recorded(trainer: "InstanceTrainer") -> str | None:
    """What keeps this run's iterations from being recorded; None if nothing does."""
    model, config = trainer.pipeline.model.config, trainer.config
    obstacles: dict[str, Callable[[], bool]] = {
        "--pipeline.model.use-label-regularization draws patches": lambda: model.use_label_regularization,
        "--mixed-precision scales gradients on the host": lambda: trainer.mixed_precision,
        "several devices train": lambda: trainer.world_size > 1,
        "gradients accumulate over iterations": lambda: any(
            trainer.gradient_accumulation_steps[group] > 1 for group in trainer.optimizers.parameters
        ),
        "--log-gradients is on": lambda: config.log_gradients,
        "the training pixels are not on the GPU (too many, or drawn in ways of their own)": lambda: (
            trainer.pipeline.datamanager.resident_pixels() is None
        ),
        "its optimizers can't be": lambda: (
            not all(
                make_recordable(optimizer, trainer.pipeline.model.device)
                for optimizer in trainer.optimizers.optimizers.values()
            )
        ),
    }
    return next((reason for reason, there in obstacles.items() if there()), None)


class RecordedTraining:
    """nerfstudio's training iteration as a few CUDA graphs: launching a thousand kernels takes longer than they run.

    There is one graph per combination of what changes from iteration to iteration on the host: whether the proposal
    networks are updated, and whether instances train yet. They share their memory. What changes gradually, annealing
    and learning rates, lies in tensors. The instance head, which gives nothing back to the field, trains beside it.

    Args:
        trainer: after its setup; `why_not_recorded` found nothing.
    """

    def __init__(self, trainer: "InstanceTrainer") -> None:
        self.trainer = trainer
        self.model = trainer.pipeline.model
        self.device = self.model.device
        self._anneal = torch.ones((), device=self.device)
        self._side = SideStream(self.device)
        self._pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        self._steps: dict[tuple[bool, bool], RecordedStep] = {}
        self._results: dict[tuple[bool, bool], tuple[list[str], list[str], Tensor]] = {}

    def train_iteration(self, step: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """One iteration; see nerfstudio's `Trainer.train_iteration`. What it returns holds until the next one."""
        sampler = self.model.proposal_sampler
        # nerfstudio decides so when it samples; a recording must be chosen before.
        updated = bool(sampler._steps_since_update > sampler.update_sched(sampler._step) or sampler._step < 10)
        if sampler._anneal is not self._anneal:
            self._anneal.fill_(sampler._anneal)
            sampler._anneal = self._anneal  # type: ignore[assignment]
        variant = (updated, self.model.instances_active)
        if variant not in self._steps:
            self._steps[variant] = RecordedStep(lambda: self._step(variant), self.device, self._pool)
        self._steps[variant]()
        if updated:
            sampler._steps_since_update = 0

        self.trainer.optimizers.scheduler_step_all(step)
        losses, metrics, values = self._results[variant]
        values = values.unbind()
        named = dict(zip(losses, values[1:], strict=False)), dict(zip(metrics, values[1 + len(losses) :], strict=True))
        return values[0], *named

    def _step(self, variant: tuple[bool, bool]) -> None:
        self._side.join()  # a recording that broke off left it open
        optimizers = self.trainer.optimizers.optimizers
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.model.side_stream = self._side
        try:
            # nerfstudio makes some constants on the CPU and moves them; here they are born where they belong.
            with self.device:
                _, losses, metrics = self.trainer.pipeline.get_train_loss_dict(step=0)
        finally:
            self.model.side_stream = None
        of_head = [losses[name] for name in INSTANCE_LOSSES if name in losses]
        of_field = [loss for name, loss in losses.items() if name not in INSTANCE_LOSSES]
        read = self._side.mark()
        if of_head:
            with self._side.aside():
                self._optimise(of_head, ["instance_head"])
        self._optimise(of_field, [name for name in optimizers if name != "instance_head"], read)
        self._side.join()
        with self.device:
            loss = functools.reduce(torch.add, losses.values())
        values = torch.stack([value.detach().float() for value in (loss, *losses.values(), *metrics.values())])
        if variant not in self._results:
            self._results[variant] = (list(losses), list(metrics), torch.empty_like(values))
        self._results[variant][2].copy_(values)

    def _optimise(self, losses: list[Tensor], names: list[str], after: Any = None) -> None:
        """Backward pass of some losses and a step of the named optimizers, those once `after` has been reached."""
        functools.reduce(torch.add, losses).backward()
        self._side.wait_for(after)
        optimizers = self.trainer.optimizers
        for name in names:
            parameters = optimizers.parameters[name]
            if all(parameter.grad is None for parameter in parameters):
                continue
            max_norm = optimizers.config[name]["optimizer"].max_norm
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizers.optimizers[name].step()
