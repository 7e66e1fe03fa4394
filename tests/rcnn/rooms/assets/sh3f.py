"""A Sweet Home 3D library in a few lines, for tests."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

# A stair of two boxes: its low step lies to the front (+z) and to the left, so no turn or mirror image looks the same.
STAIR_BOXES = (((0, 0, 0), (4, 1, 2)), ((0, 1, 0), (4, 3, 1)))


def box_obj(boxes: tuple = STAIR_BOXES, first_material: str = "wood", header: str = "mtllib stair.mtl") -> str:
    """OBJ text of closed boxes, quads with texture coordinates, y up."""
    lines = [header, "vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    for k, ((x0, y0, z0), (x1, y1, z1)) in enumerate(boxes):
        lines += [f"v {x} {y} {z}" for x in (x0, x1) for y in (y0, y1) for z in (z0, z1)]
        lines.append(f"usemtl {first_material if k == 0 else 'plain'}")
        for quad in ((1, 2, 4, 3), (5, 7, 8, 6), (1, 5, 6, 2), (3, 4, 8, 7), (1, 3, 7, 5), (2, 6, 8, 4)):
            lines.append("f " + " ".join(f"{corner + 8 * k}/{n + 1}" for n, corner in enumerate(quad)))
    return "\n".join(lines) + "\n"


STAIR_MTL = "newmtl wood\nKd 0 0 0\nmap_Kd wood.png\n\nnewmtl plain\nKd 1 0 0\nd 1\n"


def png(height: int = 8, width: int = 16) -> bytes:
    """A picture that is red above and blue below."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, :, 2], image[height // 2 :, :, 0] = 200, 200
    return cv2.imencode(".png", image)[1].tobytes()


def row(number: int, model_id: str, name: str, model: str, size: tuple = (80, 40, 60), **more: object) -> str:
    """Lines of a catalogue for one model; `size` is width, depth and height in centimetres."""
    values = {"id": model_id, "name": name, "category": "Living room", "creator": "A. Tester", "model": model}
    values |= dict(zip(("width", "depth", "height"), size, strict=True)) | more
    return "".join(f"{key}#{number}={value}\n" for key, value in values.items())


def write_library(path: Path, rows: str, entries: Mapping[str, str | bytes], catalogue_id: str = "") -> Path:
    """A .sh3f file with a catalogue and other entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        catalogue = f"id={catalogue_id or 'SweetHome3D#BlendSwap-CC-0-Models'}\nname=Test\n{rows}"
        archive.writestr("PluginFurnitureCatalog.properties", catalogue)
        for name, content in entries.items():
            archive.writestr(name, content)
    path.write_bytes(buffer.getvalue())
    return path
