"""The `nerf-rcnn` command."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

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
