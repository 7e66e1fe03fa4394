"""The photos of a scene, by name, read when they are needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from instance_nerfstudio.errors import InputError


@dataclass(frozen=True)
class Photo:
    """One photo, in a file."""

    path: Path
    name: str
    """Path relative to the folder that all photos share, with suffix and forward slashes; unique."""

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, from the file's header.

        Raises:
            InputError: no such file, or no picture.
        """
        try:
            with Image.open(self.path) as picture:
                return picture.height, picture.width
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise self._unreadable(error) from error

    def rgb(self) -> UInt8[np.ndarray, "H W 3"]:
        """The pixels as nerfstudio sees them: as they are stored, whatever EXIF says of the camera's rotation.

        What is transparent becomes white.

        Raises:
            InputError: no such file, no picture, or a truncated one.
        """
        try:
            with Image.open(self.path) as picture:
                if picture.mode.startswith("I"):  # 16 bits; Pillow would clip them
                    grey = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                    return np.repeat(grey[..., None], 3, axis=2)
                if "A" in picture.getbands() or "transparency" in picture.info:
                    layer = picture.convert("RGBA")
                    picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
                return np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise self._unreadable(error) from error

    def sha256(self) -> str:
        """Of the file."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        return InputError(f"{self.path}: cannot be read as a photo ({reason}); replace it or remove it from the scene")


def name_photos(paths: Sequence[Path]) -> list[Photo]:
    """Photos in the given order, each named by its path below the folder that all share.

    Raises:
        InputError: no photos, or one twice.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    if not absolute:
        raise InputError("no photos given; name at least one")
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    photos = [Photo(path, path.relative_to(root).as_posix()) for path in absolute]
    if len({photo.name for photo in photos}) < len(photos):
        twice = next(p for place, p in enumerate(photos) if p in photos[:place])
        raise InputError(f"{twice.path}: is given twice; name each photo once")
    return photos
