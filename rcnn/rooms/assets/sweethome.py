"""Sweet Home 3D furniture libraries: `.sh3f` files, and the default catalogue inside `sweethome3d.jar`.

Both are zip archives with a Java properties file that lists models, and OBJ files in any unit, y up and
front towards +z. Archives are untrusted: nothing is unpacked to disk, entries are found by exact name only, and what is
read is bounded.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rcnn.rooms.assets.model import MAX_ALBEDO, Model, ModelInfo, Surface
from rcnn.rooms.assets.wavefront import MtlMaterial, built_in_material, parse_mtl, parse_obj

CATALOGUES = ("PluginFurnitureCatalog.properties", "com/eteks/sweethome3d/io/DefaultFurnitureCatalog.properties")
MAX_ENTRY_BYTES = 128 << 20
MAX_IMAGE_PIXELS = 1 << 26
# Licences by catalogue id, as the libraries' LICENSE.TXT and the headers of the default catalogue's models state them.
LICENCES = {
    "SweetHome3D#BlendSwap-CC-0-Models": "CC0-1.0",
    "SweetHome3D#BlendSwap-CC-BY-Models": "CC-BY-3.0",
    "SweetHome3D#KatorLegazModels": "CC-BY-3.0-US",
    "SweetHome3D#ScopiaModels": "CC-BY-3.0",
    "SweetHome3D#ReallusionModels": "CC-BY-3.0-US",
    "SweetHome3D#DefaultModels": "CC-BY-3.0 OR GPL-2.0-or-later",
}
# Models whose own licence file is stricter than the library's.
MODEL_LICENCES = {
    "Blend Swap CC-0#winchesterArmchair": "CC-BY-3.0",  # "You must mention the author of this blend"
    "Blend Swap CC-0#winchesterSofa": "CC-BY-3.0",
}
# A texture that repeats more often than this over a model comes from uninitialised memory of somebody's exporter.
MAX_REPEATS = 1000.0
# Textures keep at most this many pixels along a side.
TEXTURE_SIZE = 256
JPEG_QUALITY = 88
# From the catalogue's frame (x right, y up, z towards the viewer) to ours (x right, y away, z up).
TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


@dataclass(frozen=True)
class CatalogueEntry:
    """One row of a catalogue."""

    info: ModelInfo
    """What the catalogue says, not yet classified."""
    theme: str
    """The catalogue's own category, such as `Living room`."""
    obj_path: str
    """OBJ file inside the archive."""
    rotation: np.ndarray
    """(3, 3) turn of the mesh in the catalogue's frame, to be applied before it is scaled."""
    is_opening: bool
    """Whether it is a door or window, which belongs into a wall."""


class Library:
    """An open archive; use it in a `with` statement."""

    def __init__(self, path: Path):
        """Opens a library and reads its catalogue. Raises ValueError in one line that names the file."""
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except FileNotFoundError:
            raise ValueError(f"{self.path}: there is no such file") from None
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path}: not a Sweet Home 3D library ({error})") from None
        try:
            self._names = set(self._zip.namelist())
            catalogue = next((name for name in CATALOGUES if name in self._names), None)
            if catalogue is None:
                raise ValueError(f"{self.path}: not a Sweet Home 3D library (it holds no furniture catalogue)")
            properties = parse_properties(self._read(catalogue).decode("latin-1"))
            self.licence = LICENCES.get(properties.get("id", ""), properties.get("license", "unknown"))
            self.entries = tuple(
                self._entry(properties, int(key[3:])) for key in properties if re.fullmatch(r"id#\d{1,6}", key)
            )
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def _read(self, name: str) -> bytes:
        try:
            with self._zip.open(name) as stream:
                data = stream.read(MAX_ENTRY_BYTES + 1)  # the size in the header may lie
        except (OSError, RuntimeError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise ValueError(f"{self.path}: cannot read {name} ({error})") from None
        if len(data) > MAX_ENTRY_BYTES:
            raise ValueError(f"{self.path}: {name} is larger than {MAX_ENTRY_BYTES >> 20} MB")
        return data

    def _entry(self, properties: dict[str, str], number: int) -> CatalogueEntry:
        def value(key: str, default: str = "") -> str:
            return properties.get(f"{key}#{number}", default)

        model_id = value("id")
        try:
            size = [float(value(key)) / 100 for key in ("width", "depth", "height")]
            rotation = np.array(value("modelRotation", "1 0 0 0 1 0 0 0 1").split(), float).reshape(3, 3)
            elevation, top = float(value("elevation", "0")) / 100, float(value("dropOnTopElevation", "-1")) / 100
        except ValueError:
            raise ValueError(f"{self.path}: the catalogue's row {number} ({model_id}) has broken numbers") from None
        if not (np.isfinite([*size, elevation, top]).all() and np.isfinite(rotation).all() and min(size) > 0):
            raise ValueError(f"{self.path}: the catalogue's row {number} ({model_id}) has impossible sizes")
        info = ModelInfo(
            model_id=model_id,
            name=value("name"),
            category="",
            library=self.path.stem,
            licence=MODEL_LICENCES.get(model_id, self.licence),
            creator=value("creator"),
            size=(size[0], size[1], size[2]),
            elevation=elevation,
            top=top if top > 0 else None,
        )
        theme, obj_path = value("category"), value("model").lstrip("/")
        return CatalogueEntry(info, theme, obj_path, rotation, value("doorOrWindow") == "true")

    def load(self, entry: CatalogueEntry) -> tuple[Model, float]:
        """Reads a model into our frame: footprint centred, standing on z = 0, front towards -y, metres.

        It is scaled to the size in the catalogue; the second result is how much more along one axis than along
        another, 1 when mesh and catalogue agree. Raises ValueError in one line when the archive does not hold it or
        its text is broken; a missing texture or material library is no error.
        """
        if entry.obj_path not in self._names:
            raise ValueError(f"{self.path}: {entry.info.model_id} points at {entry.obj_path!r}, which is not in it")
        try:
            mesh = parse_obj(self._read(entry.obj_path).decode("latin-1"))
        except ValueError as error:
            raise ValueError(f"{self.path}: {entry.obj_path}: {error}") from None
        folder = posixpath.dirname(entry.obj_path)
        materials: dict[str, MtlMaterial] = {}
        present = [path for name in mesh.libraries if (path := self._beside(folder, name))]
        if mesh.libraries and not present:  # a renamed file: the only one there must be meant
            present = [name for name in self._names if posixpath.dirname(name) == folder and name.endswith(".mtl")]
        for path in sorted(present):
            materials |= parse_mtl(self._read(path).decode("latin-1"))
        images: dict[str, tuple[bytes, float] | None] = {}
        spare = self._unused_picture(folder, materials.values())
        surfaces = [
            self._surface(materials.get(name) or built_in_material(name), folder, spare, images)
            for name in mesh.material_names
        ]
        uv = mesh.uv * [1.0, -1.0] + [0.0, 1.0]  # images are stored from the top
        plain = np.array([surface.image is None for surface in surfaces])[mesh.material_of_face]
        uv[plain | (np.abs(uv) > MAX_REPEATS).any((1, 2))] = 0
        vertices = mesh.vertices @ entry.rotation.T @ TO_Z_UP.T
        scale = np.array(entry.info.size) / np.maximum(np.ptp(vertices[np.unique(mesh.faces)], axis=0), 1e-9)
        model = Model(
            info=entry.info,
            vertices=fit(vertices, mesh.faces, entry.info.size),
            faces=mesh.faces,
            uv=uv,
            surfaces=tuple(surfaces),
            surface_of_face=mesh.material_of_face,
            two_sided=np.zeros(len(mesh.faces), bool),
        )
        return model, float(scale.max() / scale.min())

    def _beside(self, folder: str, name: str) -> str | None:
        """The entry that a file name in an OBJ or MTL file means, None when the archive does not hold it."""
        path = posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))
        return path if path in self._names else None

    def _unused_picture(self, folder: str, materials: Iterable[MtlMaterial]) -> str | None:
        """The only picture beside a model if no material names it: what a path on the author's disk must mean."""
        pictures = [
            entry
            for entry in self._names
            if posixpath.dirname(entry) == folder and entry.lower().endswith((".jpg", ".jpeg", ".png"))
        ]
        used = {self._beside(folder, material.texture) for material in materials if material.texture}
        return pictures[0] if len(pictures) == 1 and pictures[0] not in used else None

    def _surface(
        self, material: MtlMaterial, folder: str, spare: str | None, images: dict[str, tuple[bytes, float] | None]
    ) -> Surface:
        path = (self._beside(folder, material.texture) or spare) if material.texture else None
        if path is not None and path not in images:
            images[path] = shrink_image(self._read(path))
        image, cover = (path and images[path]) or (None, 1.0)
        # exporters leave any grey in Kd beside a texture
        red, green, blue = (min(value, MAX_ALBEDO) for value in (material.colour if image is None else (1.0, 1.0, 1.0)))
        masked = material.has_alpha_map and image is not None
        return Surface((red, green, blue), image, 0.0 if masked else material.opacity * cover)


def parse_properties(text: str) -> dict[str, str]:
    """Java properties text: `key=value` lines with `\\uXXXX` escapes and continued lines."""
    result = {}
    for line in re.sub(r"\\\r?\n[ \t]*", "", text).splitlines():
        line = line.strip()
        if line and line[0] not in "#!":
            key, _, value = line.partition("=")
            result[key.strip()] = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), value.strip())
    return result


def fit(vertices: np.ndarray, faces: np.ndarray, size: tuple[float, float, float]) -> np.ndarray:
    """(V, 3) vertices scaled so that the used ones span `size`, footprint centred, standing on z = 0."""
    used = vertices[np.unique(faces)]
    low, extent = used.min(0), np.maximum(np.ptp(used, axis=0), 1e-9)
    scaled = (vertices - low) * (np.array(size) / extent)
    return scaled - [size[0] / 2, size[1] / 2, 0.0]


def shrink_image(data: bytes) -> tuple[bytes, float] | None:
    """A picture file re-encoded with at most `TEXTURE_SIZE` pixels a side, None when it is no picture.

    Transparent pixels are mixed with white; the second result is the share of the picture that is opaque.
    """
    width, height = _image_size(data)
    if not 0 < width * height <= MAX_IMAGE_PIXELS:
        return None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint8:
        return None
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    opaque = 1.0
    if pixels.shape[2] == 4:
        opaque = round(float((pixels[..., 3] > 127).mean()), 4)
        cover = pixels[..., 3:].astype(np.float32) / 255
        pixels = np.rint(pixels[..., :3] * cover + 255 * (1 - cover)).astype(np.uint8)
    sides = [min(TEXTURE_SIZE, side) for side in pixels.shape[1::-1]]
    if tuple(sides) != pixels.shape[1::-1]:
        pixels = cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    return (png if len(png) < len(jpeg) else jpeg), opaque


def _image_size(data: bytes) -> tuple[int, int]:
    """Width and height from the header of a PNG or JPEG file, (0, 0) for anything else.

    A small file may claim a picture that fills the memory, so its size is looked up before it is decoded.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    position = 2
    while data[:2] == b"\xff\xd8" and position + 9 <= len(data):
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        position += 2 + length
    return 0, 0
