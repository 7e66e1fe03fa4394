"""Where Sweet Home 3D's furniture lies on this machine, and how Debian's packages of it are brought here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGES = ("sweethome3d-furniture", "sweethome3d")
FOLDER = Path("usr/share/sweethome3d")
REMEDY = (
    "run `nerf-rcnn rooms assets --library PATH` with the .sh3f files of the package sweethome3d-furniture and the "
    "sweethome3d.jar of the package sweethome3d"
)


def default_cache() -> Path:
    """Where downloaded packages are kept."""
    return Path.home() / ".cache" / "instance-nerf" / "sweethome3d"


def installed_libraries(root: Path = Path("/")) -> list[Path]:
    """Libraries below a file system root, in a fixed order; empty when the packages are not there."""
    folder = root / FOLDER
    found = sorted((folder / "furniture").glob("*.sh3f"))
    jar = folder / "sweethome3d.jar"
    return [*found, jar] if found and jar.exists() else []


def expand_paths(paths: Sequence[Path]) -> list[Path]:
    """Library files named by the user: files as they are, folders searched for `*.sh3f` and `sweethome3d.jar`.

    Raises ValueError in one line for a path that does not exist or a folder that holds none.
    """
    result: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted([*path.rglob("*.sh3f"), *path.rglob("sweethome3d.jar")])
            if not found:
                raise ValueError(f"{path}: the folder holds no .sh3f library and no sweethome3d.jar")
            result += found
        elif path.exists():
            result.append(path)
        else:
            raise ValueError(f"{path}: there is no such furniture library")
    return result


def fetch_libraries(cache: Path, say: Callable[[str], object] = lambda text: None) -> list[Path]:
    """The libraries of the installed packages, else of packages downloaded to `cache` with `apt-get download`.

    Nothing is installed and no root is needed. Raises ValueError in one line with the remedy when that fails.
    """
    if found := installed_libraries() or installed_libraries(cache):
        return found
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise ValueError(f"{tool} is not on this machine: {REMEDY}")
    cache.mkdir(parents=True, exist_ok=True)
    say(f"downloading {' and '.join(PACKAGES)} (137 MB) to {cache}")
    _run(["apt-get", "download", *PACKAGES], cache)
    for package in PACKAGES:
        archives = sorted(cache.glob(f"{package}_*.deb"))
        if not archives:
            raise ValueError(f"apt-get downloaded no {package}: {REMEDY}")
        _run(["dpkg", "-x", str(archives[-1]), "."], cache)
    for archive in cache.glob("*.deb"):
        archive.unlink()
    if not (found := installed_libraries(cache)):
        raise ValueError(f"{cache}: the packages hold no furniture where it is expected: {REMEDY}")
    return found


def _run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"`{' '.join(command[:2])}` failed ({reason}): run `apt-get update` first, or {REMEDY}")
