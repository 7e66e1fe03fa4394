"""Checkpoints of Hugging Face's libraries, from a folder or the cache; nothing is ever downloaded here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from instance_nerfstudio.errors import InputError


def require_transformers(source: str) -> None:
    """Raises InputError with the command that installs the library."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError(
            f"--source {source}: needs transformers; pip install 'transformers>=5', or choose another --source"
        )


def load_pretrained(kind: Any, weights: str, **options: Any) -> Any:
    """`kind.from_pretrained(weights)` without a network, and without code or pickles from the checkpoint.

    Args:
        kind: a class of transformers.
        weights: a folder, or the name of a checkpoint in the cache.
        options: further arguments.

    Raises:
        InputError: it is not there, or is damaged.
    """
    try:
        with quiet():
            return kind.from_pretrained(weights, local_files_only=True, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        if is_path(weights):
            raise InputError(f"{weights}: is no folder with a whole checkpoint ({reason}); check --weights") from error
        raise InputError(
            f"{weights}: is not in the Hugging Face cache, or damaged; get it with `hf download {weights}`, "
            "or give a folder to --weights"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings: ours has the line."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def is_path(weights: str) -> bool:
    """Whether text means a folder: names of checkpoints have one slash and no leading dot."""
    return Path(weights).exists() or weights.startswith((".", "/", "~")) or weights.count("/") != 1
