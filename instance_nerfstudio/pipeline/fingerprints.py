"""What files hold, in a few bytes, and without reading them again while they stay as they are."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcnn.safe_files import write_atomically

ABSENT = "absent"
"""Fingerprint of a file that is not there."""
# A file that changes twice within one tick of its clock looks unchanged: so young a file is read anew the next time.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class FileSet:
    """Files of one folder, by name: a copy of the folder elsewhere is the same set."""

    root: Path
    """Folder, or a single file."""
    names: tuple[str, ...] | None = None
    """Paths below `root`; everything in it that is not hidden when None."""

    def files(self) -> dict[str, Path]:
        """Names and paths, in order of the names."""
        if self.names is not None:
            return {name: self.root / name for name in sorted(self.names)}
        if not self.root.is_dir():
            return {"": self.root}
        found = (path for path in self.root.rglob("*") if path.is_file())
        names = {path.relative_to(self.root): path for path in found}
        visible = {name: path for name, path in names.items() if not any(part.startswith(".") for part in name.parts)}
        return {name.as_posix(): visible[name] for name in sorted(visible)}


class Fingerprints:
    """Hashes of whole files, photos and checkpoints too: a gigabyte takes a second, once.

    Size and times of the last change only tell whether a file must be read again, as git's index does. None is part
    of the fingerprint, so copied, moved and touched files count as what they hold, and no change is missed.

    Args:
        cache: JSON file that remembers hashes from call to call; damage to it costs time alone.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, list[Any]] = {}
        try:
            content = json.loads(cache.read_text(encoding="utf-8"))
            self._known = {name: entry for name, entry in content.items() if len(entry) == 5}
        except (OSError, ValueError, AttributeError, TypeError):
            pass
        self._changed = False

    def of(self, files: FileSet) -> dict[str, str]:
        """The fingerprint of each file by its name in the set; `ABSENT` where there is none."""
        listed = files.files()
        with ThreadPoolExecutor(8) as pool:
            return dict(zip(listed, pool.map(self.file, listed.values()), strict=True))

    def file(self, path: Path) -> str:
        """The fingerprint of one file."""
        try:
            stat = path.stat()
            # What was edited can get its old time back, but not the time at which it got it.
            key, looks = str(path.absolute()), [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            known = self._known.get(key)
            if known is not None and known[:-1] == looks:
                return str(known[-1])
            with path.open("rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except (OSError, ValueError):
            return ABSENT
        if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED_NS:
            self._known[key] = [*looks, found]
            self._changed = True
        return found

    def save(self) -> None:
        """Remembers the hashes for the next time; files that are gone are forgotten."""
        if self._changed:
            kept = {name: entry for name, entry in self._known.items() if Path(name).is_file()}
            write_atomically(self._cache, json.dumps(kept).encode())
            self._changed = False


def digest(content: Mapping[str, Any] | Iterable[Any]) -> str:
    """One fingerprint of what JSON can hold; the order of keys doesn't matter."""
    plain = dict(content) if isinstance(content, Mapping) else list(content)
    text = json.dumps(plain, sort_keys=True, default=str, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
