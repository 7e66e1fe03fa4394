"""The `instance-nerf` command."""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

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
        from instance_nerfstudio.demo import run_demo  # nerfstudio takes seconds to load: not for --help

        run_demo(self.output_dir)


def main() -> None:
    """Entry point: an error of the user's is one line, an interrupt is silent, and neither has exit status 0."""
    try:
        tyro.extras.subcommand_cli_from_dict({"demo": Demo}, prog="instance-nerf").main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
