"""The files of a scene that its stages read."""

from __future__ import annotations

import re
from pathlib import Path

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.fingerprints import FileSet
from rcnn.safe_files import read_json

TRANSFORMS_FILE = "transforms.json"


def scene_files(data: Path) -> FileSet:
    """transforms.json and the photos that it names, also those that nerfstudio has made smaller (`images_2/`).

    What else lies in the folder, masks and earlier results, changes nothing of the photos.

    Raises:
        InputError: no transforms.json there, or a damaged one.
    """
    root = data.parent if data.suffix == ".json" else data
    path = data if data.suffix == ".json" else data / TRANSFORMS_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; make one with ns-process-data, or name another folder with --data")
    content = read_json(path)
    frames = content.get("frames")
    names = [frame.get("file_path") for frame in frames if isinstance(frame, dict)] if isinstance(frames, list) else []
    photos = {name for name in names if isinstance(name, str)}
    if not photos:
        raise InputError(f"{path}: names no photos; make it again with ns-process-data")
    smaller = {
        folder.relative_to(root) / Path(name).name
        for name in photos
        for folder in (root / name).parent.parent.glob(f"{Path(name).parent.name}_*")
        if re.fullmatch(r".*_\d+", folder.name) and (folder / Path(name).name).is_file()
    }
    cloud = content.get("ply_file_path")
    others = {path.name, *([cloud] if isinstance(cloud, str) else [])}
    return FileSet(root, tuple(photos | {name.as_posix() for name in smaller} | others))


def scene_name(data: Path) -> str:
    """What the scene's run folder is called."""
    return (data.parent if data.suffix == ".json" else data).resolve().name


def scene_photos(data: Path) -> list[Path]:
    """All photos as nerfstudio loads them, in the order of their numbers: of both splits, each once.

    Raises:
        InputError: the scene is unusable.
    """
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from instance_nerfstudio.hushed_console import hushed_console
    from instance_nerfstudio.labelled_scene import check_scene

    check_scene(data, needs_transforms=True)
    parser = NerfstudioDataParserConfig(data=data).setup()
    with hushed_console():
        splits = [parser.get_dataparser_outputs(split).image_filenames for split in ("train", "val", "test")]
    return sorted({path for split in splits for path in split}, key=_by_number)


def _by_number(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]
