"""Pickles that hold arrays and plain containers, read without running anything else that they name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

_ALLOWED = {
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    ("_codecs", "encode"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")
        return super().find_class(module, name)


def load_plain_pickle(path: Path) -> Any:
    """The content of a `.pkl` file, as detectron2's checkpoints are.

    Raises:
        pickle.UnpicklingError: damaged, or it holds more than arrays and plain containers.
        OSError, EOFError, ValueError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            # Checkpoints of Python 2 hold bytes where text is meant.
            return _PlainUnpickler(file, encoding="latin1").load()
        except (AttributeError, IndexError, TypeError, ImportError, MemoryError) as error:
            raise pickle.UnpicklingError(f"damaged: {error}") from error
