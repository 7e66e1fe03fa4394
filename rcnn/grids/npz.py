"""NumPy's .npz files, written whole, read without pickles, and memory-mapped where they are not compressed."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from rcnn.errors import InputError
from rcnn.safe_files import open_atomically

# Below this an array is read: a mapping costs a file handle and a page at least.
MAPPED_BYTES = 1 << 20
# Far above any grid; a header that asks for more is damage or malice.
MAX_BYTES = 16 << 30
_LOCAL_HEADER_BYTES = 30


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = True) -> None:
    """Writes arrays whole or not at all. Uncompressed ones are memory-mapped by `read_npz`.

    Compression is zlib's fastest: densities are noise to it, slower levels gain a tenth.
    """
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with open_atomically(path) as file, zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, np.asarray(array), allow_pickle=False)


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of a .npz file; large uncompressed ones are read-only mappings of the file.

    Args:
        path: the file.
        names: arrays to read, of those that are there; all when None.

    Raises:
        InputError: no such file, no .npz, damaged, cut off, or it holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = members if names is None else [name for name in members if name in names]
            return {name: _read(path, archive, members[name]) for name in wanted}
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a readable .npz file ({reason}); make it anew") from error


def _read(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        shape, fortran, dtype = _header(member)
        start = member.tell()
        if dtype.hasobject:
            raise InputError(f"{path}: {info.filename} holds pickled objects, which are not read; save plain arrays")
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size > MAX_BYTES or start + size != info.file_size:
            raise ValueError(f"{info.filename} is cut off or far too large")
        if info.compress_type != zipfile.ZIP_STORED or size < MAPPED_BYTES:
            flat = np.frombuffer(bytearray(member.read()), dtype)
            return flat.reshape(shape, order="F" if fortran else "C")
    with path.open("rb") as file:  # the name and extra field of the local header differ from the directory's
        file.seek(info.header_offset)
        local = file.read(_LOCAL_HEADER_BYTES)
        if local[:4] != b"PK\x03\x04":
            raise ValueError(f"{info.filename} has no header")
        name_bytes, extra_bytes = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
    offset = info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes + start
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def _header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(member)
    return (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(member)
