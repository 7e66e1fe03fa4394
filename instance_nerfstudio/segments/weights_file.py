"""Files of weights that others wrote: read without running code from them, and told from others at the same place."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instance_nerfstudio.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_ALLOWED = {
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    ("_codecs", "encode"),
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of torch (`.pth`) or in a pickle of NumPy arrays (`.pkl`), by itself or under `model`.

    Raises:
        InputError: no such file, a damaged one, one that holds more than arrays and plain containers, or no weights.
    """
    import torch

    if not path.is_file():
        raise InputError(f"{path}: no such file; check --weights")
    try:
        if path.suffix == ".pkl":
            with path.open("rb") as file:
                # Checkpoints of Python 2 hold bytes where text is meant.
                content = _PlainUnpickler(file, encoding="latin1").load()
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    # Damage ends in many exceptions, also in LookupError and AttributeError.
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{path}: cannot be read as weights ({reason}); download it again") from error
    weights = content.get("model", content) if isinstance(content, dict) else None
    arrays = {name: value for name, value in (weights or {}).items() if hasattr(value, "shape")}
    if not isinstance(weights, dict) or not arrays:
        raise InputError(f"{path}: holds no weights; check --weights")
    return {name: torch.as_tensor(value) for name, value in arrays.items()}


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files directly in a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = [f"{file.name} {fingerprint(file)}" for file in sorted(path.iterdir()) if file.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")
        return super().find_class(module, name)
