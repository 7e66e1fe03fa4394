"""nerfstudio's pipeline with instance metrics over all views, and calibration of the instance probabilities."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from rich.progress import track
from torch import Tensor
from torchvision.utils import save_image

from instance_nerfstudio.edits.edits_file import EDITS_FILE
from instance_nerfstudio.evaluation.calibration import fit_temperature
from instance_nerfstudio.evaluation.metrics import InstanceMetrics
from instance_nerfstudio.instance_model import InstanceModel, InstanceOptions
from instance_nerfstudio.labelled_scene import MaskOptions
from instance_nerfstudio.write_threads import WriteThreads


@dataclass
class RunPipelineConfig(VanillaPipelineConfig):
    """Options of every pipeline with instances."""

    _target: type = field(default_factory=lambda: RunPipeline)
    """Target class to instantiate."""
    calibration_batches: int = 8
    """Batches of held-out rays (training rays where no view is held out) that calibrate `instance_confidence`."""
    run_folder: Path | None = None
    """Folder of the run, which holds the edits of its instances; set by the trainer's configuration."""

    def __getstate__(self) -> dict[str, Any]:
        # What config.yml keeps: not where the run is now, since it may be opened elsewhere.
        return {name: value for name, value in self.__dict__.items() if name != "run_folder"}


class RunPipeline(VanillaPipeline):
    """Evaluates instances beside pictures: per view, and over all views as one scene."""

    config: RunPipelineConfig
    datamanager: Any
    """A `LabelledScene`."""

    def __init__(self, config: RunPipelineConfig, *args: Any, **kwargs: Any) -> None:
        model, datamanager = cast(InstanceOptions, config.model), cast(MaskOptions, config.datamanager)
        if not model.use_instances:
            datamanager.require_masks = False
        super().__init__(config, *args, **kwargs)
        if config.run_folder is not None:
            run = config.run_folder
            self.model.run_name = f"{run.parent.name}/{run.name}"
            self.model.edits_store.path = run / EDITS_FILE

    @property
    def model(self) -> InstanceModel:
        return super().model  # type: ignore[return-value]

    def category_numbers(self) -> dict[int, int] | None:
        """Instance id -> category number, from the scene's `instances.json` and the edits; None without one."""
        infos = self.model.edits_store.current().describe(self.datamanager.instances)
        names = sorted({info.category for info in infos})
        return {info.id: 1 + names.index(info.category) for info in infos} or None

    def get_eval_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        self.model.keep_logits = True
        try:
            with torch.no_grad():
                return super().get_eval_loss_dict(step)
        finally:
            self.model.keep_logits = False

    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        camera, batch = self.datamanager.next_eval_image(step)
        metrics, images = self.model.get_image_metrics_and_images(self._render(camera), batch)
        metrics["num_rays"] = (camera.height * camera.width * camera.size).item()
        return metrics, images

    def _render(self, camera: Cameras) -> dict[str, Tensor]:
        """What is scored against photos, which show what the edits hide."""
        return self.model.render(camera, edits=self.model.edits_store.current().with_everything_shown())

    def get_average_image_metrics(
        self,
        data_loader: Any,
        image_prefix: str,
        step: int | None = None,
        output_path: Path | None = None,
        get_std: bool = False,
    ) -> dict[str, float]:
        """Means over the views of `psnr`, `ssim` and, where its weights are, `lpips`; `InstanceMetrics` of all views.

        With `get_std` also `<name>_std` over the views. Views with nothing labelled count in no instance metric.
        """
        if output_path is not None:
            output_path.mkdir(exist_ok=True, parents=True)
        scene = InstanceMetrics(self.category_numbers())
        views: list[dict[str, float]] = []
        with WriteThreads() as threads:
            for camera, batch in track(data_loader, "Evaluating all images", total=len(data_loader), transient=True):
                start = perf_counter()
                outputs = self._render(camera)
                num_rays = (camera.height * camera.width).item()
                metrics, images = self.model.get_image_metrics_and_images(outputs, batch)
                if "instance_ids" in outputs:
                    truth = self.model.edits_store.current().merge_ids(batch["instances"][..., 0].to(self.device))
                    scene.update(outputs["instance_ids"][..., 0], truth)
                metrics["num_rays_per_sec"] = num_rays / (perf_counter() - start)
                metrics["fps"] = metrics["num_rays_per_sec"] / num_rays
                if output_path is not None:
                    for key, image in images.items():
                        path = output_path / f"{image_prefix}_{key}_{len(views):04d}.png"
                        threads.submit(save_image, image.permute(2, 0, 1).cpu(), path)
                views.append(metrics)

        averages: dict[str, float] = {}
        for key in views[0]:
            values = torch.tensor([view[key] for view in views])
            values = values[values.isfinite()]
            if len(values):
                averages[key] = float(values.mean())
                if get_std:
                    averages[f"{key}_std"] = float(values.std(correction=min(1, len(values) - 1)))
        if self.model.options.use_instances:
            averages |= {key: value for key, value in scene.compute().items() if math.isfinite(value)}
        return averages

    @torch.no_grad()
    def calibrate(self) -> None:
        """Fits the temperature of `instance_confidence` on held-out rays (Guo et al. 2017); labels stay as they are."""
        held_out = len(self.datamanager.eval_dataset) > 0
        next_batch = self.datamanager.next_eval if held_out else self.datamanager.next_train
        training = self.training
        self.eval()
        self.model.keep_logits = True
        logits, targets = [], []
        for i in range(self.config.calibration_batches):
            rays, batch = next_batch(i)
            ray_logits, target = self.model.labelled_logits(rays, batch)
            usable = (target >= 0) & ray_logits.isfinite().all(dim=-1)
            logits.append(ray_logits[usable])
            targets.append(target[usable])
        self.model.keep_logits = False
        self.train(training)
        if logits:
            self.model.instance_head.temperature.fill_(fit_temperature(torch.cat(logits), torch.cat(targets)))
