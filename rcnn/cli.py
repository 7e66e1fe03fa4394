"""The `nerf-rcnn` command."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

app = tyro.extras.SubcommandApp()
rooms = tyro.extras.SubcommandApp()
app.command(rooms, name="rooms")


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
