"""The room of `instance-nerf demo`, built in a process of its own.

Python runs one thread at a time, and nerfstudio loads meanwhile: in one process, each keeps the other waiting.
"""

import json
import os
import shutil
import signal
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.progress import Progress

from instance_nerfstudio.errors import InputError
from rcnn.rooms import RoomConfig, make_room
from rcnn.rooms.new_folder import remove_leftovers
from rcnn.safe_files import write_atomically

# Seconds that the process has to tidy up.
_GRACE = 5.0


def build_demo_room(folder: Path, config: RoomConfig, progress: Progress) -> Path:
    """The room of this configuration; one that is there already is as good as new: the same seed, the same bytes.

    Args:
        folder: gets the room. An earlier room of the demo is replaced.
        config: what is built.
        progress: started by the caller; gets a task.

    Raises:
        InputError: `folder` is something else, or the room can't be built there.
    """
    note = folder / "room_config.json"
    wanted = repr(config)
    if note.is_file() and json.loads(note.read_text()) == wanted:
        return folder
    if folder.exists() and not note.is_file():
        raise InputError(f"{folder}: exists and is no room of the demo; choose another --output-dir")
    partial = folder.with_name(f".{folder.name}-partial")
    for old in (folder, partial):
        shutil.rmtree(old, ignore_errors=True)
    remove_leftovers(partial)
    _make_beside(partial, config, progress)
    write_atomically(partial / note.name, json.dumps(wanted).encode())
    partial.rename(folder)  # with its note, or not at all
    return folder


def _make_beside(folder: Path, config: RoomConfig, progress: Progress) -> None:
    """`make_room` in another process."""
    task = progress.add_task("Furnished room", total=1.0)
    context = get_context("spawn")  # a fork would copy locks without the threads that hold them
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_make, args=(folder, config, sender))
    process.start()
    sender.close()  # so that the pipe ends with the process
    try:
        while isinstance(news := receiver.recv(), float):
            progress.update(task, advance=news)
        process.join()  # that was its last word
    except EOFError:
        raise InputError(f"{folder.parent}: the room's process died (out of memory?); try again") from None
    finally:
        _end(process)
    if isinstance(news, OSError):
        why = news.strerror or news
        raise InputError(f"{folder.parent}: can't hold the room ({why}); choose another --output-dir") from news
    if news is not None:
        raise InputError(str(news)) from news


def _end(process: BaseProcess) -> None:
    """Waits for the process, which is interrupted if it has more to do."""
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGINT)  # as Ctrl-C: it ends its own processes and removes its folder
    process.join(_GRACE)
    process.kill()  # an interrupt while it starts a process can leave it waiting for ever
    process.join()


def _make(folder: Path, config: RoomConfig, sender: Connection) -> None:
    """Runs in the process: sends shares of the work, then None, or what is wrong."""
    try:
        make_room(folder, config, sender.send)
        sender.send(None)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        with suppress(OSError):  # nobody listens any more
            sender.send(error)
    except KeyboardInterrupt:
        pass  # told by who waits for the room
