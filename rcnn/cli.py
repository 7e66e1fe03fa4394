"""The `nerf-rcnn` command."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rcnn.commands.convert import Convert
from rcnn.commands.evaluate import Evaluate
from rcnn.commands.predict import Predict
from rcnn.commands.train import Train, TrainRPN
from rcnn.commands.visualize import Visualize

app = tyro.extras.SubcommandApp()
rooms = tyro.extras.SubcommandApp()
app.command(rooms, name="rooms")
grids = tyro.extras.SubcommandApp()
app.command(grids, name="grids")


@rooms.command(name="assets")
@dataclass
class Assets:
    """Build the large furniture pack from Sweet Home 3D's libraries (Debian packages, 137 MB).

    Without --library the installed packages are used, else they are downloaded with `apt-get download`; nothing is
    installed. The CC0 pack that comes with this package needs none of this.
    """

    out: Path
    """The pack to write. A finished pack there is replaced when the new one is complete."""
    library: list[Path] = field(default_factory=list)
    """.sh3f libraries, sweethome3d.jar, or folders that hold them."""
    cache: Path | None = None
    """Folder for downloaded packages; ~/.cache/instance-nerf/sweethome3d when not given."""
    max_faces: int = 8000
    """Triangles of a model after decimation, about."""
    attribution: Path | None = None
    """Markdown file with authors and licences; beside the pack, with the ending .md, when not given."""
    cc0_only: bool = False
    """Only CC0 models, with splits of their own: the pack that comes with this package was made this way."""

    def main(self) -> None:
        """Builds the pack."""
        from rcnn.rooms.assets.command import make_assets  # not for --help

        make_assets(self.out, self.library, self.cache, self.max_faces, self.attribution, self.cc0_only)


@rooms.command(name="make")
@dataclass
class Make:
    """Make furnished rooms with pictures and exact truth: instances, semantics, depth, boxes, voxels.

    Rooms are room_0000, room_0001, ... in --out; each is a folder for `ns-train instance-nerfacto --data`. Rooms that
    are there already are kept, so an interrupted run goes on where it stopped.
    """

    out: Path
    """Folder for the rooms of one split."""
    split: Literal["train", "val", "test"]
    """Which models to furnish with: no model of one split is in rooms of another."""
    count: int
    """Number of rooms."""
    seed: int = 0
    """The same seed gives the same rooms; splits with the same seed have different rooms."""
    pack: Path | None = None
    """Furniture pack made by `nerf-rcnn rooms assets`; the CC0 pack that comes with this package when not given."""
    kind: Literal["bedroom", "living_room", "dining_room", "study", "kitchen"] | None = None
    """Only rooms of this kind."""
    width: int = 320
    """Picture width in pixels."""
    height: int = 240
    """Picture height in pixels."""
    views: int = 70
    """Pictures of a room."""
    held_out: int = 12
    """Pictures of these that are not for training."""
    resolution: int = 160
    """Voxels along the longest side of a room."""
    renderer: Literal["embree", "opengl"] = "embree"
    """OpenGL needs moderngl and a GPU with EGL, and its pictures differ in a few pixels in 100 000."""
    num_workers: int | None = None
    """Processes; one per core when not given."""

    def main(self) -> None:
        """Builds the rooms."""
        from rcnn.rooms.make import check_packages, make_rooms  # not for --help

        check_packages()
        from rcnn.rooms.generate import GeneratedRoomConfig

        config = GeneratedRoomConfig(
            width=self.width,
            height=self.height,
            num_views=self.views,
            num_held_out=self.held_out,
            voxel_resolution=self.resolution,
            renderer=self.renderer,
        )
        rooms = make_rooms(self.out, self.split, self.count, self.seed, self.pack, config, self.kind, self.num_workers)
        print(f"{len(rooms)} rooms in {self.out}, a look at them: {self.out / 'contact_sheet.jpg'}")


@rooms.command(name="voxelize")
@dataclass
class Voxelize:
    """Make density grids straight from rooms, like those of trained radiance fields, in seconds each.

    Every room gets OUT/<room>/grid with density.npz, truth.npz and slices.png, as `instance-nerf fit-grids` writes
    them. Grids that are there already are kept, so an interrupted run goes on where it stopped.
    """

    rooms: Annotated[Path, tyro.conf.Positional]
    """A room made by `nerf-rcnn rooms make`, or a folder that holds such rooms."""
    out: Path
    """Folder for the grids; may be the rooms' own."""
    resolution: int = 160
    """Voxels along the longest side, 256 at most."""
    seed: int = 0
    """Of the noise. Every room has noise of its own."""
    look: Path | None = None
    """What the grids look like: a file of `nerf-rcnn rooms measure-look`. The look that comes with this package when
    not given."""
    clean: bool = False
    """Opaque surfaces and nothing else: no blur, floaters, holes or noise."""
    num_workers: int | None = None
    """Processes; one per core when not given."""

    def main(self) -> None:
        """Makes the grids."""
        from rcnn.errors import InputError
        from rcnn.rooms.radiance_look import CLEAN, default_look, read_look  # not for --help
        from rcnn.rooms.voxelize import VoxelizeConfig, voxelize_rooms

        if self.clean and self.look:
            raise InputError("--look and --clean exclude each other; give one of them")
        look = CLEAN if self.clean else read_look(self.look) if self.look else default_look()
        config = VoxelizeConfig(self.resolution, self.seed, look)
        folders = voxelize_rooms(self.rooms, self.out, config, self.num_workers)
        print(f"{len(folders)} grids in {self.out}, a look at the first: {folders[0] / 'grid' / 'slices.png'}")


@rooms.command(name="measure-look")
@dataclass
class MeasureLook:
    """Measure what the grids of trained radiance fields look like, for `nerf-rcnn rooms voxelize --look`.

    The rooms must be made by `nerf-rcnn rooms make` and have grids of `instance-nerf fit-grids` in them.
    """

    rooms: Annotated[list[Path], tyro.conf.Positional]
    """Rooms with grids, or folders that hold them."""
    out: Path
    """JSON file to write."""
    source: str = ""
    """What the grids are, for readers of the file."""
    num_workers: int | None = None
    """Processes; one per core when not given."""

    def main(self) -> None:
        """Measures the grids."""
        from rcnn.rooms.measure_look import measure_look  # not for --help

        measure_look(self.rooms, self.out, self.source, self.num_workers)
        print(f"{self.out}: use it with nerf-rcnn rooms voxelize --look {self.out}")


@grids.command(name="compare")
@dataclass
class Compare:
    """Compare two sets of density grids with truth: occupancy, densities, colours, agreement with the truth.

    Prints a table, and writes a picture (slices side by side, histograms) and all numbers as JSON.
    """

    one: Annotated[Path, tyro.conf.Positional]
    """Rooms with grids (`<room>/grid/density.npz`)."""
    two: Annotated[Path, tyro.conf.Positional]
    """Other rooms with grids, or the same rooms voxelized."""
    out: Path
    """Picture to write (.png), with the numbers beside it (.json); or .json for the numbers alone."""
    folders: tuple[str, str] = ("grid", "grid")
    """Folder in a room that has its grid, of the first and the second set."""
    max_grids: int = 100
    """Grids of each set that are measured, evenly chosen."""
    num_workers: int | None = None
    """Processes; one per core when not given."""

    def main(self) -> None:
        """Compares the grids."""
        from rcnn.grids.compare import compare_grids  # not for --help

        compare_grids(self.one, self.two, self.out, self.folders, self.max_grids, self.num_workers)
        print(f"{self.out}")


app.command(name="train")(Train)
app.command(name="train-rpn")(TrainRPN)
app.command(name="eval")(Evaluate)
app.command(name="predict")(Predict)
app.command(name="visualize")(Visualize)
app.command(name="convert")(Convert)


def main() -> None:
    """Entry point: an error of the user's is one line, an interrupt is silent, and neither has exit status 0."""
    try:
        app.cli(prog="nerf-rcnn", description="3D instances in density grids, and the rooms to learn them from.").main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
