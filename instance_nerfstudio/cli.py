"""The `instance-nerf` command."""

import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import tyro

from instance_nerfstudio.errors import InputError


@dataclass
class Demo:
    """Build a furnished room, train an instance field on it, score it and draw it. Needs no download.

    On a CUDA device the room is 320x240 and `instance-nerfacto` trains on it; elsewhere 160x120 and
    `instance-nerfacto-cpu`.
    """

    output_dir: Path = Path("outputs/demo")
    """Folder for everything: room, run, masks, contact_sheet.png, metrics.json. A finished room there is kept."""

    def main(self) -> None:
        """Runs the demo."""
        warnings.filterwarnings("ignore")  # of libraries under us, about their own future, as soon as they load
        from instance_nerfstudio.compile_process import start_compiling

        compiling = start_compiling()
        from instance_nerfstudio.demo_room import RoomBuild, likely_demo_room

        building = RoomBuild(self.output_dir.resolve() / "room", likely_demo_room())
        try:
            from instance_nerfstudio.demo import run_demo  # torch and nerfstudio take seconds to load: not for --help

            run_demo(self.output_dir, compiling, building)
        finally:
            building.stop()


@dataclass
class FitGrids:
    """Train a short radiance field on each room, and write its density grid and truth beside it.

    Every room gets a folder `grid` with density.npz, truth.npz, slices.png and fit.json. Rooms that have one are
    skipped: an interrupted command goes on where it was. A room that fails is named and does not stop the others.
    """

    rooms: tyro.conf.Positional[list[Path]]
    """Rooms (folders with a transforms.json), or folders that hold rooms."""
    devices: list[str] = field(default_factory=list)
    """Devices, e.g. cuda:0 cuda:1, with a process each. The first GPU, else the CPU, when not given."""
    resolution: int = 160
    """Voxels along the longest side, 256 at most."""
    iterations: int | None = None
    """Training iterations of each field; what suits the machine when not given."""
    table: Path | None = None
    """CSV file with PSNR, seconds and occupancy of each room; grids.csv beside the rooms when not given."""
    overwrite: bool = False
    """Fit rooms anew that have a grid."""

    def main(self) -> None:
        """Fits the rooms."""
        warnings.filterwarnings("ignore")
        from instance_nerfstudio.fit_grids import default_fit  # nerfstudio takes seconds to load
        from instance_nerfstudio.fit_grids_command import exit_with_failures, fit_grids

        if not 2 <= self.resolution <= 256:
            raise InputError(f"--resolution {self.resolution}: must lie between 2 and 256")
        if self.iterations is not None and self.iterations < 1:
            raise InputError(f"--iterations {self.iterations}: must be at least 1")
        config = default_fit()
        config = replace(config, grid=replace(config.grid, resolution=self.resolution))
        if self.iterations is not None:
            config = replace(config, iterations=self.iterations)
        exit_with_failures(fit_grids(self.rooms, config, self.devices, self.table, self.overwrite))


@dataclass
class EditInstances:
    """Hide, isolate, merge, name, sort and colour the instances of a trained run, as the viewer's panel does.

    Edits are kept in instance_edits.json beside the run, and all later commands honour them. Merging keeps the first
    id; `show_all` ends hiding and isolating; `undo` takes back the last step.
    """

    load_config: Path
    """Path to the config YAML file of the trained run."""
    action: Literal[
        "list", "hide", "show", "isolate", "show_all", "merge", "rename", "categorize", "recolour", "undo"
    ] = "list"
    """What to do."""
    ids: tuple[int, ...] = ()
    """Instances that it is done to."""
    to: str | None = None
    """New name, category, or colour (RRGGBB)."""

    def main(self) -> None:
        """Edits the run."""
        warnings.filterwarnings("ignore")
        from instance_nerfstudio.edits.edit_command import edit_run  # torch takes seconds to load

        edit_run(self.load_config, self.action, self.ids, self.to)


@dataclass
class LiftSplats:
    """Give the Gaussians of a finished splatfacto run their instances, in seconds and without training.

    The masks of the training views vote, and each Gaussian goes to the instance that it weighs most in. The result is a
    run of instance-splatfacto beside the given one, for ns-viewer, ns-render, ns-eval and ns-export.
    """

    load_config: Path
    """Path to the config YAML file of a run of splatfacto or instance-splatfacto."""
    masks_dir: Path | None = None
    """Folder of the instance masks; by default those of the run, or `instance_masks/` in its scene."""
    rasterizer: Literal["gsplat", "reference"] | None = None
    """`gsplat` needs a CUDA GPU; `reference` is plain torch, and slow. By default the run's own, or gsplat."""

    def main(self) -> None:
        """Lifts the instances."""
        warnings.filterwarnings("ignore")
        from instance_nerfstudio.splats.lift_command import lift_splats  # nerfstudio takes seconds to load

        lift_splats(self.load_config, self.masks_dir, self.rasterizer)


def main() -> None:
    """Entry point: an error of the user's is one line, an interrupt says how to go on, and neither has status 0."""
    from instance_nerfstudio.pipeline.commands import commands
    from instance_nerfstudio.pipeline.failures import exit_interrupted, termination_unwinds

    try:
        with termination_unwinds():
            known = {
                "demo": Demo,
                "edit": EditInstances,
                "lift-splats": LiftSplats,
                **commands(),
                "fit-grids": FitGrids,
            }
            tyro.extras.subcommand_cli_from_dict(known, prog="instance-nerf").main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as error:
        exit_interrupted(error, sys.argv)


if __name__ == "__main__":
    main()
