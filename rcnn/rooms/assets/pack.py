"""A pack: many furniture models in one compact file.

Layout (little endian): the bytes `ROOMPACK`, format version (uint32), length and CRC-32 of the header (uint32 each),
the header, then the data. The header is JSON, compressed with xz: for every model its catalogue data, split, counts,
surfaces, and where in the data its geometry and its images lie. Geometry is compressed with xz: vertex numbers as
distances from the next unused number, positions as 14-bit numbers along the longest edge and texture coordinates as
16-bit numbers within the range of their surface, both as differences from the vertex before, sorted by byte. Images
are JPEG or PNG files. There is nothing in a pack that could run, every length is checked before it is used, and equal
models give equal bytes.
"""

from __future__ import annotations

import json
import lzma
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.rooms.assets.model import Model, ModelInfo, Surface
from rcnn.safe_files import write_atomically

MAGIC = b"ROOMPACK"
VERSION = 1
POSITION_STEPS = (1 << 14) - 1
UV_STEPS = (1 << 16) - 1
MAX_FACES = 200_000
MAX_HEADER_BYTES = 32 << 20
# A small dictionary bounds the memory that a hostile file can ask for.
XZ_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 22}]
XZ_MEMORY = 64 << 20


class FurniturePack:
    """An opened pack; models are decoded when they are asked for."""

    def __init__(self, path: Path):
        """Reads the file. Raises ValueError in one line that names it when it is missing or malformed."""
        self.path = Path(path)
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise ValueError(f"{self.path}: cannot read the furniture pack ({error.strerror})") from None
        if data[:8] != MAGIC:
            raise ValueError(f"{self.path}: not a furniture pack; make one with `nerf-rcnn rooms assets`")
        try:
            version, length, checksum = struct.unpack_from("<III", data, 8)
            if version != VERSION:
                raise ValueError(f"format version {version} is not {VERSION}, make it anew")
            packed = data[20 : 20 + length]
            if len(packed) != length or zlib.crc32(packed) != checksum:
                raise ValueError("it is cut off or damaged")
            header = json.loads(_unpack(packed, MAX_HEADER_BYTES))
            self._data = memoryview(data)[20 + length :]
            self._rows = {row["info"]["model_id"]: row for row in header["models"]}
            self.models = tuple(_info(row["info"]) for row in header["models"])
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise self._malformed(error) from None

    def _malformed(self, error: Exception) -> ValueError:
        reason = f"missing {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        return ValueError(f"{self.path}: malformed furniture pack ({reason})")

    def load(self, model_id: str) -> Model:
        """Decodes one model. Raises KeyError for an unknown id, ValueError when its data are malformed."""
        row = self._rows[model_id]
        try:
            return _decode(row, self._data)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise self._malformed(error) from None

    def of_split(self, split: str) -> tuple[ModelInfo, ...]:
        """The models of `train`, `val` or `test`."""
        return tuple(info for info in self.models if info.split == split)


def shipped_pack() -> FurniturePack:
    """The CC0 models that come with the package."""
    with resources.as_file(resources.files("rcnn.rooms.assets").joinpath("furniture_cc0.pack")) as path:
        return FurniturePack(path)


def write_pack(path: Path, models: Sequence[Model]) -> None:
    """Writes models, ordered by id, whole or not at all. Raises ValueError when one is too large for the format."""
    blobs: list[bytes] = []
    places: dict[bytes, tuple[int, int]] = {}

    def store(blob: bytes) -> list[int]:
        if blob not in places:  # models of one author often share a picture
            places[blob] = (sum(map(len, blobs)), len(blob))
            blobs.append(blob)
        return [*places[blob], zlib.crc32(blob)]

    rows = []
    for model in sorted(models, key=lambda model: model.info.model_id):
        row, geometry = _encode(model)
        row["geometry"] = store(geometry)
        for surface, entry in zip(model.surfaces, row["surfaces"], strict=True):
            entry["image"] = None if surface.image is None else store(surface.image)
        rows.append(row)
    header = _pack(json.dumps({"models": rows}, separators=(",", ":"), sort_keys=True).encode())
    prefix = MAGIC + struct.pack("<III", VERSION, len(header), zlib.crc32(header))
    write_atomically(Path(path), prefix + header + b"".join(blobs))


def attribution(models: Sequence[ModelInfo]) -> str:
    """Markdown that names every model with its author, library and licence."""
    lines = [
        "# Furniture models",
        "",
        "Converted to metres, cleaned, decimated and packed from the furniture libraries of Sweet Home 3D.",
        "",
        "| model | id | author | library | licence |",
        "|---|---|---|---|---|",
    ]
    for info in sorted(models, key=lambda info: info.model_id):
        cells = (info.name, f"`{info.model_id}`", info.creator or "unknown", info.library, info.licence)
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _pack(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=XZ_FILTERS)


def _unpack(data: bytes | memoryview, limit: int) -> bytes:
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)
    try:
        result = decompressor.decompress(bytes(data), max_length=limit + 1)
    except lzma.LZMAError as error:
        raise ValueError(f"compressed data are damaged: {error}") from None
    if len(result) > limit or not decompressor.eof:
        raise ValueError("compressed data have a wrong length")
    return result


def _info(row: dict[str, Any]) -> ModelInfo:
    info = ModelInfo(**row)
    sizes = np.array(info.size, float)
    if sizes.shape != (3,) or not np.isfinite(sizes).all() or not (sizes > 0).all():
        raise ValueError(f"{info.model_id} has impossible sizes")
    return replace(info, size=(float(sizes[0]), float(sizes[1]), float(sizes[2])))


def _bytes_of(differences: np.ndarray) -> bytes:
    """Columns of differences modulo 2**16 with the sign in the lowest bit, low bytes before high bytes."""
    signed = differences.astype(np.int64).astype(np.uint16).view(np.int16).astype(np.int32)
    folded = ((signed << 1) ^ (signed >> 15)).astype(np.uint16)
    return b"".join(part.astype(np.uint8).tobytes() for column in folded.T for part in (column & 255, column >> 8))


def _differences(data: bytes, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) uint16 sums of what `_bytes_of` wrote."""
    planes = np.frombuffer(data, np.uint8).reshape(columns, 2, rows).astype(np.int64)
    folded = planes[:, 0] | planes[:, 1] << 8
    signed = (folded >> 1) ^ -(folded & 1)
    return (np.cumsum(signed, axis=1).T & 0xFFFF).astype(np.uint16)


def _encode(model: Model) -> tuple[dict[str, Any], bytes]:
    """A model's header row without its images, and its compressed geometry."""
    name = model.info.model_id
    order = np.lexsort((model.two_sided, model.surface_of_face))  # stable: keeps neighbours together
    faces, uv = model.faces[order], model.uv[order]
    surface, two_sided = model.surface_of_face[order].astype(np.int64), model.two_sided[order]
    textured = np.array([part.image is not None for part in model.surfaces])
    if not 0 < len(faces) <= MAX_FACES:
        raise ValueError(f"{name}: {len(faces)} triangles do not fit into a pack, decimate it first")

    low, high = model.vertices.min(0), model.vertices.max(0)
    step = max(float((high - low).max()) / POSITION_STEPS, 1e-9)
    places = np.rint((model.vertices - low) / step).astype(np.int64)
    uv_range: list[list[float] | None] = []
    coordinates = np.zeros((len(faces), 3, 2), np.int64)
    for number, part in enumerate(model.surfaces):
        chosen = uv[surface == number].reshape(-1, 2)
        if part.image is None or not len(chosen):
            uv_range.append(None)
            continue
        start, span = chosen.min(0), np.maximum(np.ptp(chosen, axis=0), 1e-9)
        uv_range.append([*start.tolist(), *span.tolist()])
        coordinates[surface == number] = np.rint((uv[surface == number] - start) / span * UV_STEPS).astype(np.int64)

    # one vertex for every place, and for every place and texture coordinate of a textured surface
    owner = np.repeat(np.where(textured[surface], surface, -1), 3)
    key = np.column_stack([places[faces.ravel()], coordinates.reshape(-1, 2), owner])
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    index, vertices = rank[inverse.ravel()], key[np.sort(first)]
    if len(vertices) > 1 << 16:
        raise ValueError(f"{name}: {len(vertices)} vertices do not fit into a pack, decimate it first")

    unused = np.concatenate([[0], np.maximum.accumulate(index)[:-1] + 1])
    distance = (unused - index).astype(np.uint16)
    has_uv = vertices[:, 5] >= 0
    geometry = b"".join(
        [
            (distance & 255).astype(np.uint8).tobytes(),
            (distance >> 8).astype(np.uint8).tobytes(),
            _bytes_of(np.diff(vertices[:, :3], axis=0, prepend=0)),
            _bytes_of(np.diff(vertices[has_uv, 3:5], axis=0, prepend=0)),
        ]
    )
    change = np.nonzero(np.diff(surface * 2 + two_sided))[0] + 1
    starts = np.concatenate([[0], change, [len(faces)]])
    runs = [[int(surface[a]), int(two_sided[a]), int(b - a)] for a, b in pairwise(starts)]
    row = {
        "info": asdict(model.info),
        "vertices": len(vertices),
        "runs": runs,
        "origin": low.tolist(),
        "step": step,
        "surfaces": [
            {"colour": list(part.colour), "opacity": part.opacity, "uv_range": span}
            for part, span in zip(model.surfaces, uv_range, strict=True)
        ],
    }
    return row, _pack(geometry)


def _slice(data: memoryview, place: Sequence[int]) -> bytes:
    start, length, checksum = place
    if start < 0 or length <= 0 or start + length > len(data):
        raise ValueError("it is cut off")
    result = bytes(data[start : start + length])
    if zlib.crc32(result) != checksum:
        raise ValueError("it is damaged")
    return result


def _decode(row: dict[str, Any], data: memoryview) -> Model:
    runs = np.array(row["runs"], np.int64).reshape(-1, 3)
    surfaces = tuple(
        Surface(
            colour=(float(part["colour"][0]), float(part["colour"][1]), float(part["colour"][2])),
            image=None if part["image"] is None else _slice(data, part["image"]),
            opacity=float(part["opacity"]),
        )
        for part in row["surfaces"]
    )
    face_count, vertex_count = int(runs[:, 2].sum()), int(row["vertices"])
    if not (0 < face_count <= MAX_FACES and 0 < vertex_count <= 1 << 16 and (runs[:, 2] > 0).all()):
        raise ValueError("impossible counts")
    if not ((runs[:, 0] >= 0) & (runs[:, 0] < len(surfaces))).all():
        raise ValueError("a surface is missing")
    textured = np.array([part.image is not None for part in surfaces])
    surface_of_face = np.repeat(runs[:, 0], runs[:, 2])

    raw = _unpack(_slice(data, row["geometry"]), 6 * face_count + 10 * vertex_count)
    corner_count = 3 * face_count
    if len(raw) < 2 * corner_count + 6 * vertex_count:
        raise ValueError("geometry is too short")
    planes = np.frombuffer(raw, np.uint8, 2 * corner_count).reshape(2, corner_count).astype(np.int64)
    distance = planes[0] | planes[1] << 8
    new = distance == 0
    index = np.cumsum(new) - new - distance
    if index.min() < 0 or index.max() >= vertex_count:
        raise ValueError("a triangle points at a missing vertex")
    faces = index.reshape(-1, 3)
    places = _differences(raw[2 * corner_count : 2 * corner_count + 6 * vertex_count], vertex_count, 3)
    vertices = np.array(row["origin"], float) + places * float(row["step"])
    if vertices.shape != (vertex_count, 3) or not np.isfinite(vertices).all():
        raise ValueError("impossible positions")

    has_uv = np.zeros(vertex_count, bool)
    has_uv[faces[textured[surface_of_face]].ravel()] = True
    rest = raw[2 * corner_count + 6 * vertex_count :]
    if len(rest) != 4 * has_uv.sum():
        raise ValueError("texture coordinates have a wrong length")
    shares = np.zeros((vertex_count, 2))
    shares[has_uv] = _differences(rest, int(has_uv.sum()), 2) / UV_STEPS
    spans = np.array([part["uv_range"] or [0.0, 0.0, 0.0, 0.0] for part in row["surfaces"]], float).reshape(-1, 4)
    uv = spans[surface_of_face, None, :2] + shares[faces] * spans[surface_of_face, None, 2:]
    return Model(
        info=_info(row["info"]),
        vertices=vertices,
        faces=faces.astype(np.int32),
        uv=np.where(textured[surface_of_face, None, None], uv, 0.0),
        surfaces=surfaces,
        surface_of_face=surface_of_face.astype(np.int32),
        two_sided=np.repeat(runs[:, 1] > 0, runs[:, 2]),
    )
