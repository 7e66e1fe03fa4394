"""`instance-nerf run`, `status`, and each stage as a command of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.options import (
    DensityOptions,
    DetectOptions,
    ExportOptions,
    MatchOptions,
    ProjectOptions,
    RadianceOptions,
    RefineOptions,
    ReportOptions,
    SceneOptions,
    TrainOptions,
)
from instance_nerfstudio.pipeline.run_folder import OPTIONS_FILE
from instance_nerfstudio.pipeline.run_scenes import ExecutorOptions, exit_with_failures, run_scenes
from instance_nerfstudio.segments.settings import SegmentConfig

STAGES: dict[str, tuple[type, str]] = {
    "radiance": (RadianceOptions, "Train the radiance field of a scene, or take one that is trained."),
    "density": (DensityOptions, "Sample the radiance field as a density grid."),
    "detect": (DetectOptions, "Find 3D instances in the density grid."),
    "segment": (SegmentConfig, "Segment every photo in 2D."),
    "project": (ProjectOptions, "Render the 3D instances into every view."),
    "match": (MatchOptions, "Give the segments ids that all views share."),
    "train": (TrainOptions, "Train the instance head on the matched masks."),
    "refine": (RefineOptions, "Draw the field's masks to the photos' edges and train the head anew."),
    "export": (ExportOptions, "Export the masks of the trained field."),
    "report": (ReportOptions, "Draw report.html of all that was done."),
}


@dataclass
class Run:
    """From photos to consistent instance masks.

    Every scene gets a folder OUT/<name of the scene> with a folder per stage: radiance, density, detect, segment,
    project, match, train, refine-1 ..., export, report. Give the same command again after an interruption, or with
    other options: only what is not done or has changed is done. The result is train/ (or refine-N/), a run for
    ns-viewer, export/ with masks, and report/report.html.
    """

    data: list[Path]
    """Scenes: folders of photos with transforms.json, as ns-process-data makes them."""
    out: Path = Path("outputs/scenes")
    """Folder for the scenes' run folders."""
    executor: tyro.conf.OmitArgPrefixes[ExecutorOptions] = field(default_factory=ExecutorOptions)
    radiance: tyro.conf.OmitArgPrefixes[RadianceOptions] = field(default_factory=RadianceOptions)
    density: tyro.conf.OmitArgPrefixes[DensityOptions] = field(default_factory=DensityOptions)
    detect: tyro.conf.OmitArgPrefixes[DetectOptions] = field(default_factory=DetectOptions)
    segment: tyro.conf.OmitArgPrefixes[SegmentConfig] = field(default_factory=SegmentConfig)
    project: tyro.conf.OmitArgPrefixes[ProjectOptions] = field(default_factory=ProjectOptions)
    match: tyro.conf.OmitArgPrefixes[MatchOptions] = field(default_factory=MatchOptions)
    train: tyro.conf.OmitArgPrefixes[TrainOptions] = field(default_factory=TrainOptions)
    refine: tyro.conf.OmitArgPrefixes[RefineOptions] = field(default_factory=RefineOptions)
    export: tyro.conf.OmitArgPrefixes[ExportOptions] = field(default_factory=ExportOptions)
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = field(default_factory=ReportOptions)

    def main(self) -> None:
        """Runs the scenes."""
        from rich.console import Console

        chosen = {name: getattr(self, name) for name in STAGES}
        options = SceneOptions(data=self.data[0] if self.data else Path(), **chosen)
        exit_with_failures(run_scenes(self.data, self.out, options, self.executor, Console()))


@dataclass
class Status:
    """Show what is done in run folders, and what is stale, damaged, missing or running."""

    folders: Annotated[list[Path], tyro.conf.Positional] = field(default_factory=lambda: [Path("outputs/scenes")])
    """Run folders, or folders that hold them."""
    json: bool = False
    """Print JSON, for programs."""

    def main(self) -> None:
        """Prints a table per run folder."""
        from rich.console import Console

        from instance_nerfstudio.pipeline.status import find_run_folders, print_status, status_as_json

        folders = find_run_folders(self.folders)
        if self.json:
            print(status_as_json(folders))
        else:
            print_status(folders, Console())


def stage_commands(arguments: list[str]) -> dict[str, Any]:
    """A command `STAGE RUN [options]` for every stage.

    Args:
        arguments: those of the process: the run folder that they name gives the options' defaults.
    """
    return {name: _stage_command(name, arguments) for name in STAGES}


def _stage_command(name: str, arguments: list[str]) -> type:
    kind, text = STAGES[name]
    saved = _saved_options(arguments) if arguments[:1] == [name] else None
    default = getattr(saved, name) if saved is not None else kind()

    def main(self: Any) -> None:
        from rich.console import Console

        from instance_nerfstudio.pipeline.run_scene import run_scene

        known = saved
        if known is None:
            if self.data is None:
                raise InputError(
                    f"{self.run}: is no run folder; name its scene with --data, or use `instance-nerf run`"
                )
            known = SceneOptions(self.data)
        elif self.data is not None:
            known = replace(known, data=self.data)
        run_scene(replace(known, **{name: self.options}), self.run, Console(), only=name)

    cls = make_dataclass(
        name.capitalize(),
        [
            ("run", Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="Run folder.")]),
            (
                "data",
                Annotated[Path | None, tyro.conf.arg(help="Scene of a new run folder, or where the scene is now.")],
                field(default=None),
            ),
            ("options", tyro.conf.OmitArgPrefixes[kind], field(default=default)),
        ],
        namespace={"main": main},
    )
    cls.__doc__ = f"{text} Options are those that the run folder was last run with, where none are given."
    return cls


def _saved_options(arguments: list[str]) -> SceneOptions | None:
    folder = Path(arguments[1]) if len(arguments) > 1 and not arguments[1].startswith("-") else None
    if folder is None or not (folder / OPTIONS_FILE).is_file():
        return None
    return SceneOptions.of_folder(folder)


def commands() -> dict[str, Callable[..., Any]]:
    """All of them by name, in the order of `--help`."""
    return {"run": Run, **stage_commands(sys.argv[1:]), "status": Status}
