"""`detect`: 3D instances in the density grid, by NeRF-RCNN, from a file, or none."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.fingerprints import FileSet
from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.stage import Stage, StageContext
from instance_nerfstudio.pipeline.stages.density import GRID_FILE

INSTANCES_FILE = "instances.npz"


def detect_stage(options: SceneOptions) -> Stage:
    """Finds objects in 3D."""
    detect = options.detect
    inputs: dict[str, FileSet] = {}
    if detect.detect == "predict" and detect.instances is not None:
        inputs["instances"] = FileSet(detect.instances)
    elif detect.detect == "predict":
        weights = detect.detector or _shipped()
        inputs["detector"] = FileSet(weights.parent, (weights.name, weights.with_suffix(".json").name))
    return Stage(
        name="detect",
        run=partial(_detect, options),
        after=("density",),
        options={"detect": detect.detect, "detector_min_score": detect.detector_min_score},
        inputs=inputs,
        products=(INSTANCES_FILE,),
    )


def instances_file(context: StageContext) -> Path | None:
    """The 3D instances for a later stage; None without any detector."""
    path = context.output("detect") / INSTANCES_FILE
    return path if path.is_file() else None


def _shipped() -> Path:
    import rcnn

    return Path(rcnn.__file__).parent / "weights" / "rooms.safetensors"  # rcnn.weights imports torch


def _detect(options: SceneOptions, context: StageContext) -> dict[str, Any]:
    detect = options.detect
    if detect.detect == "none":
        return {"instances": None, "summary": "none asked for"}

    from rcnn.data import GridFrame
    from rcnn.instances import read_instances, write_instances

    if detect.instances is not None:
        instances, frame = read_instances(detect.instances)
        source = str(detect.instances)
    else:
        import torch

        from rcnn.detecting import find_instances
        from rcnn.grids import read_density_grid
        from rcnn.weights import SHIPPED, load_instance_detector

        if detect.detector is None and not SHIPPED.is_file():
            raise InputError(
                f"{SHIPPED}: this version comes without a trained detector; give one with --detector FILE, "
                "3D instances with --instances FILE, or go without: --detect none"
            )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, _ = load_instance_detector(detect.detector, device)
        task = context.progress.add_task("Detecting", total=1)
        grid = read_density_grid(context.output("density") / GRID_FILE)
        found = find_instances(model, grid)
        context.progress.advance(task)
        instances, frame, source = found.instances.to("cpu"), GridFrame.of(grid), "NeRF-RCNN"
        if found.remark is not None:
            context.warnings.append(found.remark)
    instances = instances.select(instances.scores >= detect.detector_min_score)
    if not len(instances):
        context.warnings.append(f"no 3D instance has a score of {detect.detector_min_score} or more ({source})")
    write_instances(context.work / INSTANCES_FILE, instances, frame)
    counts = ", ".join(f"{count} {name}" for name, count in Counter(instances.names).most_common())
    return {
        "instances": len(instances),
        "source": source,
        "summary": f"{len(instances)} instances{': ' if counts else ''}{counts}",
    }
