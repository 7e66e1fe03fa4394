"""The command `instance-nerf segment`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from instance_nerfstudio.segments.segment import SegmentConfig, segment_images


@dataclass
class Segment:
    """Find 2D segments in every photo of a scene, with a segmenter of your choice.

    A PNG per photo and `segments.json` go into the folder `segments` of the scene. Photos that have segments are
    skipped: an interrupted command goes on where it was. Nothing is downloaded; what is missing is named with the
    command that gets it.
    """

    data: Path
    """The scene: a folder with a transforms.json or with a folder `images`."""
    out: Path | None = None
    """Folder for the segments; `segments` in the scene's folder when not given."""
    config: tyro.conf.OmitArgPrefixes[SegmentConfig] = field(default_factory=SegmentConfig)
    device: str | None = None
    """Torch device, e.g. cuda:1. The first GPU, else the CPU, when not given."""

    def main(self) -> None:
        """Segments the photos."""
        from instance_nerfstudio.segments.photos import find_photos

        scene = self.data.parent if self.data.suffix == ".json" else self.data
        out = self.out or scene / "segments"
        found = segment_images(find_photos(self.data), out, self.config, self.device)
        skipped = sum(record.skipped for record in found.records.values())
        line = f"{found.count} segments in {len(found.records)} photos"
        line += f", {skipped} of which the source left out" if skipped else ""
        Console(stderr=True).print(f"{line}; {out}", soft_wrap=True, highlight=False)
