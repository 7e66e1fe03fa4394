"""A graph of stages that work on text files, slowly enough to be killed, in a process of its own.

python stub_stages.py INPUT RUN_FOLDER [SECONDS_PER_FILE]
"""

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.failures import exit_interrupted, full_disk_is_one_line, termination_unwinds
from instance_nerfstudio.pipeline.fingerprints import FileSet
from instance_nerfstudio.pipeline.run_folder import lock_run_folder
from instance_nerfstudio.pipeline.run_stages import run_stages
from instance_nerfstudio.pipeline.stage import Stage, StageContext

FILES = 4


def stub_stages(source: Path, options: dict[str, Any], seconds: float = 0.0) -> list[Stage]:
    """radiance -> density, segment -> match -> report; each writes files that are hashes of all that it reads."""
    order = {
        "radiance": ((), True),
        "density": (("radiance",), False),
        "segment": ((), True),
        "match": (("density", "segment"), False),
        "report": (("match",), False),
    }

    def run_of(name: str, resumable: bool) -> Any:
        def run(context: StageContext) -> dict[str, Any]:
            read = [str(options.get(name))]
            if not order[name][0]:
                read += [path.read_text() for path in FileSet(source).files().values()]
            for earlier in order[name][0]:
                read += [path.read_text() for path in sorted(context.output(earlier).glob("part_*"))]
            made = 0
            for i in range(FILES):
                path = context.work / f"part_{i}"
                if resumable and path.exists() and path.read_text().endswith("."):
                    continue
                made += 1
                with path.open("w") as file:  # not atomically: a kill leaves half of it
                    file.write(hashlib.sha256(f"{name}{i}{read}".encode()).hexdigest())
                    file.flush()
                    time.sleep(seconds)
                    file.write(".")
            (context.work / "log").write_text(f"{time.time()}")  # differs from run to run
            return {"summary": f"{made} files"}

        return run

    return [
        Stage(
            name,
            run_of(name, resumable),
            after,
            {"choice": options.get(name)},
            {} if after else {"data": FileSet(source)},
            products=("part_*",),
            resumable=resumable,
        )
        for name, (after, resumable) in order.items()
    ]


def run_all(source: Path, folder: Path, options: dict[str, Any] | None = None, **more: Any) -> dict[str, str]:
    """Runs the graph in this process; the summary of each stage that ran or was there."""
    stages = stub_stages(source, options or {})
    with lock_run_folder(folder) as lock, full_disk_is_one_line(folder):
        records = run_stages(stages, folder, lock, Console(quiet=True), **more)
    return {name: record.finished + record.result["summary"] for name, record in records.items()}


def main(source: Path, folder: Path, seconds: float) -> None:
    """As the command does it."""
    try:
        with termination_unwinds(), lock_run_folder(folder) as lock, full_disk_is_one_line(folder):
            run_stages(stub_stages(source, {}, seconds), folder, lock, Console())
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as error:
        exit_interrupted(error, sys.argv)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
