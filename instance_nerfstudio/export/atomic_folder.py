"""A folder of results that appears whole or not at all."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from instance_nerfstudio.errors import InputError


@contextmanager
def atomic_folder(path: Path, overwrite: bool = False, replaceable: Collection[str] = ()) -> Iterator[Path]:
    """Yields a hidden folder beside `path` that takes its place when the block ends, and vanishes when it fails.

    Only a killed process leaves anything behind, and then the hidden `.<name>-partial-*`, never a half-filled `path`.

    Args:
        path: the folder to make; may exist if it is empty, or be replaced.
        overwrite: whether a folder with earlier results is replaced, at the end.
        replaceable: names that such a folder may hold: anything else isn't ours to delete.

    Raises:
        InputError: `path` is a file, can't be created, isn't empty, or holds more than earlier results.
    """
    target = path.resolve()
    if target.exists() and not target.is_dir():
        raise InputError(f"{path}: is a file; choose another --output-dir")
    present = sorted(entry.name for entry in target.iterdir()) if target.is_dir() else []
    if present and not overwrite:
        raise InputError(f"{path}: is not empty; choose another --output-dir, or replace it with --overwrite True")
    if foreign := [name for name in present if name not in replaceable]:
        raise InputError(f"{path}: holds {foreign[0]}, which no export wrote; choose another --output-dir")

    missing = [folder for folder in target.parents if not folder.exists()]
    partial = target.parent / f".{target.name}-partial-{uuid4().hex[:8]}"
    try:
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{path}: can't be created ({error.strerror}); choose another --output-dir") from error
        yield partial
        replace_folder(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in missing:  # innermost first; a folder that someone else has used meanwhile isn't empty and stays
            with suppress(OSError):
                folder.rmdir()
        raise


def replace_folder(partial: Path, target: Path) -> None:
    """Puts a finished folder in the place of `target`, whatever is there. Both lie on one file system."""
    if not (target.is_dir() and any(target.iterdir())):
        os.replace(partial, target)
        return
    # A rename can't replace a folder that holds files.
    retired = target.parent / f".{target.name}-replaced-{uuid4().hex[:8]}"
    os.replace(target, retired)
    try:
        os.replace(partial, target)
    except BaseException:
        os.replace(retired, target)
        raise
    shutil.rmtree(retired, ignore_errors=True)
