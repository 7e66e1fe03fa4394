"""What a user can choose, stage by stage."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.run_folder import OPTIONS_FILE
from instance_nerfstudio.segments.settings import SegmentConfig
from rcnn.safe_files import read_json, write_atomically

Method = Literal["auto", "instance-nerfacto", "instance-nerfacto-cpu"]


@dataclass(frozen=True)
class RadianceOptions:
    """The radiance field."""

    radiance: Path | None = None
    """A nerfacto or instance-nerfacto run of the same photos to take, its folder or config.yml; one is trained when not
    given."""
    radiance_iterations: int | None = None
    """Training iterations; what suits the machine when not given."""
    method: Method = "auto"
    """Of this field and of the instance head; instance-nerfacto on a GPU and instance-nerfacto-cpu without."""


@dataclass(frozen=True)
class DensityOptions:
    """The density grid."""

    resolution: int = 160
    """Voxels along the longest side, 256 at most; the detector was trained at 160."""


@dataclass(frozen=True)
class DetectOptions:
    """The 3D detector."""

    detect: Literal["predict", "none"] = "predict"
    """`none` goes on without 3D instances, which `--matcher consensus` can."""
    instances: Path | None = None
    """3D instances from elsewhere (.npz as `nerf-rcnn predict` writes it), instead of detecting."""
    detector: Path | None = None
    """detector.safetensors of a NeRF-RCNN; the one that comes with this package when not given."""
    detector_min_score: float = 0.4
    """Detected objects below are left out."""


@dataclass(frozen=True)
class ProjectOptions:
    """The 3D instances in the views."""

    projection_side: int = 320
    """Pixels along the longer side of a projection."""


@dataclass(frozen=True)
class MatchOptions:
    """The matcher."""

    matcher: Literal["seed", "hungarian", "consensus"] = "consensus"
    """`seed`: the paper's rule, the 3D instance of the highest IoU; `hungarian`: one to one, by what is visible;
    `consensus`: also objects that the detector missed but several views agree on, and the only one without 3D
    instances."""


@dataclass(frozen=True)
class TrainOptions:
    """The instance head."""

    iterations: int | None = None
    """Training iterations, at most; the method's own number when not given."""


@dataclass(frozen=True)
class RefineOptions:
    """Rounds of refinement."""

    refine_rounds: int = 0
    """Rounds in which the field's masks are drawn to the photos' edges, segments assigned anew, and the head trained
    anew, as long as it agrees better with the segments of held-out views."""
    refiner: Literal["edges", "cascadepsp"] = "edges"
    """`edges` needs no network; `cascadepsp` is the paper's, if its package and weights are installed."""
    cascadepsp_folder: Path | None = None
    """Folder of CascadePSP's weights; where its package keeps them when not given."""


@dataclass(frozen=True)
class ExportOptions:
    """The masks of the trained field."""

    cameras: Literal["auto", "train", "eval", "all"] = "auto"
    """Views whose masks are exported: all on a GPU, the held-out ones without."""
    format: tuple[Literal["png", "coco", "panoptic"], ...] = ("png",)
    """Formats beside PNG, which is always written."""


@dataclass(frozen=True)
class ReportOptions:
    """The report."""

    report_views: int = 6
    """Held-out views in it, and as many for training, evenly chosen where there are more."""


@dataclass(frozen=True)
class SceneOptions:
    """Everything about the run of one scene."""

    data: Path
    """Folder of the photos, with transforms.json."""
    radiance: RadianceOptions = field(default_factory=RadianceOptions)
    density: DensityOptions = field(default_factory=DensityOptions)
    detect: DetectOptions = field(default_factory=DetectOptions)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    project: ProjectOptions = field(default_factory=ProjectOptions)
    match: MatchOptions = field(default_factory=MatchOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    refine: RefineOptions = field(default_factory=RefineOptions)
    export: ExportOptions = field(default_factory=ExportOptions)
    report: ReportOptions = field(default_factory=ReportOptions)

    @staticmethod
    def of_folder(folder: Path) -> SceneOptions:
        """What a run folder was last run with.

        Raises:
            InputError: it is no run folder, or one of another version.
        """
        path = folder / OPTIONS_FILE
        if not path.is_file():
            raise InputError(f"{folder}: is no run folder; make one with `instance-nerf run --data SCENE`")
        return SceneOptions.from_json(json.dumps(read_json(path)), path)

    @staticmethod
    def from_json(text: str, source: Path | str) -> SceneOptions:
        """Reads what `to_json` wrote; options that are new since then have their defaults."""
        content = json.loads(text, object_hook=_decode)
        try:
            return _with_values(SceneOptions(content.pop("data")), content)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{source}: holds options of another version ({error}); give the run anew") from error

    def to_json(self) -> str:
        """The options as text, with absolute paths."""
        return json.dumps(asdict(self), indent=1, default=_encode)

    def save(self, folder: Path) -> None:
        """Writes them into a run folder."""
        write_atomically(folder / OPTIONS_FILE, (self.to_json() + "\n").encode())


def _encode(value: Any) -> Any:
    if isinstance(value, Path):
        return {"path": str(value.expanduser().absolute())}
    raise TypeError(f"{type(value).__name__} is no option")


def _with_values(default: Any, values: Any) -> Any:
    if is_dataclass(default) and not isinstance(default, type):
        return replace(default, **{name: _with_values(getattr(default, name), value) for name, value in values.items()})
    return tuple(values) if isinstance(values, list) else values


def _decode(content: dict[str, Any]) -> Any:
    return Path(content["path"]) if content.keys() == {"path"} else content
