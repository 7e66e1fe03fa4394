"""Rendered masks as image files and as a video."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol

from PIL import Image

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.views import Frame, View, view_size
from instance_nerfstudio.masks.instance_masks import write_instance_mask
from instance_nerfstudio.masks.instances_json import MASKS_FOLDER
from instance_nerfstudio.write_threads import WriteThreads

VIDEO_CODEC = "libx264"


class Writer(AbstractContextManager, Protocol):
    """Takes frames one by one; its files are complete when the context ends without an exception."""

    def add(self, frame: Frame) -> None: ...


class ImageFolders:
    """Writes each view as ids (`instance_masks/`, 16 bit), in the palette's colours (`colour/`), and over the photo
    (`overlay/`), all PNG.

    Args:
        folder: gets the three folders.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = WriteThreads()

    def __enter__(self) -> "ImageFolders":
        return self

    def add(self, frame: Frame) -> None:
        """Has one view written."""
        self._threads.submit(self._write, frame)

    def _write(self, frame: Frame) -> None:
        name = f"{frame.view.name}.png"
        write_instance_mask(self._folder / MASKS_FOLDER / name, frame.ids)
        for kind, image in (("colour", frame.colour), ("overlay", frame.overlay)):
            path = self._folder / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.__exit__(kind, error, traceback)


class OverlayVideo:
    """Writes the overlays as an MP4 (H.264).

    Args:
        path: the file.
        fps: frames per second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        import av

        self._container = av.open(str(path), "w")
        self._rate = Fraction(fps).limit_denominator(1000)
        self._stream = None

    def __enter__(self) -> "OverlayVideo":
        return self

    def add(self, frame: Frame) -> None:
        """Appends one view; all must have one size, of which an odd last row or column is cut off."""
        import av

        # H.264 stores colour for blocks of two by two pixels.
        height, width = (side // 2 * 2 for side in frame.ids.shape)
        if self._stream is None:
            self._stream = self._container.add_stream(VIDEO_CODEC, rate=self._rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": "18"}
        picture = av.VideoFrame.from_ndarray(frame.overlay[:height, :width].copy(), format="rgb24")
        self._container.mux(self._stream.encode(picture))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def check_video_encoder() -> None:
    """Raises InputError when no H.264 encoder is installed: better now than after rendering."""
    try:
        import av

        av.Codec(VIDEO_CODEC, "w")
    except (ImportError, ValueError) as error:
        raise InputError(
            f"--video True: no H.264 encoder here ({error}); run `pip install av`, or leave --video out"
        ) from error


def check_video_size(views: Sequence[View]) -> None:
    """Raises InputError unless the views have one size that a video can have."""
    sizes = sorted({view_size(view.camera) for view in views})
    if len(sizes) > 1:
        (height, width), (other_height, other_width) = sizes[0], sizes[-1]
        raise InputError(
            f"--video True: the views have different sizes, e.g. {width}x{height} and {other_width}x{other_height}; "
            "use --cameras path, or leave --video out"
        )
    if min(sizes[0]) < 2:
        raise InputError("--video True: the views are narrower than two pixels; choose a larger --scale")
