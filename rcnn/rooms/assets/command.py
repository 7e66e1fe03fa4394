"""What `nerf-rcnn rooms assets` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rcnn.rooms.assets.build import BuildReport, PackConfig, build_pack
from rcnn.rooms.assets.debian import default_cache, expand_paths, fetch_libraries
from rcnn.rooms.assets.pack import attribution, shipped_pack
from rcnn.safe_files import write_atomically
from rcnn.worker_pool import core_count


def make_assets(
    out: Path,
    library: Sequence[Path] = (),
    cache: Path | None = None,
    max_faces: int = 8000,
    attribution_path: Path | None = None,
    cc0_only: bool = False,
    num_workers: int | None = None,
) -> BuildReport:
    """Builds the large pack at `out` and a Markdown file with authors and licences, showing progress.

    `library` names files or folders; when empty, Debian's packages are used. Models that ship with the package keep
    their split; `cc0_only` is how the shipped pack itself is made. Raises ValueError in one line that says what to do.
    """
    if max_faces < 100:
        raise ValueError(f"--max-faces must be at least 100, got {max_faces}")
    if Path(out).is_dir():
        raise ValueError(f"{out} is a folder: name the file to write")
    try:  # before anything is downloaded
        import meshoptimizer  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("decimating models needs meshoptimizer: pip install 'instance-nerf[assets]'") from None
    console = Console(stderr=True)
    paths = expand_paths(library) if library else fetch_libraries(cache or default_cache(), console.print)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Furniture pack", total=1.0)
        report = build_pack(
            paths,
            Path(out),
            PackConfig(
                max_faces=max_faces,
                licences=("CC0-1.0",) if cc0_only else (),
                num_workers=num_workers or core_count(),
            ),
            {} if cc0_only else {info.model_id: info.split for info in shipped_pack().models},
            lambda share: progress.update(task, advance=share),
        )
    page = attribution_path or Path(out).with_suffix(".md")
    write_atomically(page, attribution(report.models).encode())
    table = Table(title=f"{out}: {len(report.models)} models, {Path(out).stat().st_size / 1e6:.1f} MB")
    for heading in ("class", "train", "val", "test"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for category in sorted(report.counts()):
        splits = [info.split for info in report.models if info.category == category]
        table.add_row(category, *(str(splits.count(split)) for split in ("train", "val", "test")))
    console.print(table)
    console.print(f"{len(report.dropped)} models of these classes were left out; authors and licences: {page}")
    return report
