"""Files written whole or not at all, and JSON whose damage is reported in one line."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rcnn.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends without an error.

    Readers see the old file or the new one, never a part; a failure leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile, which makes private files: the result gets the permissions of any other new file.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Readers see the old file or the new one, never a part; a failure leaves nothing behind."""
    with open_atomically(path) as file:
        file.write(data)


def write_json(path: Path, content: Any) -> None:
    """Writes readable JSON, whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def write_rgb_png(path: Path, picture: np.ndarray) -> None:
    """Writes a picture (H, W, 3) uint8 RGB, whole or not at all."""
    import cv2  # most of what is written are no pictures

    done, png = cv2.imencode(".png", picture[..., ::-1])
    assert done
    write_atomically(path, png.tobytes())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
        InputError: it can't be read, is no JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error}); correct it or write it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__} where an object {{...}} belongs; write it again")
    return content
