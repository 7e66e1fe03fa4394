"""The room of `instance-nerf demo`, built in a process of its own.

Python runs one thread at a time, and torch and nerfstudio load meanwhile: in one process, each keeps the other waiting.
Nothing heavy is imported here, so that the process can start before they do.
"""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.progress import Progress

from instance_nerfstudio.errors import InputError
from rcnn.rooms import RoomConfig, make_room
from rcnn.rooms.new_folder import remove_leftovers
from rcnn.safe_files import write_atomically

# In a finished room: what it was built from.
_NOTE = "room_config.json"
# Seconds that the process has to tidy up.
_GRACE = 5.0


def demo_room(cuda: bool) -> RoomConfig:
    """The demo's room for a machine with or without a CUDA device: a larger one where there is one."""
    return RoomConfig() if cuda else RoomConfig(width=160, height=120)


def likely_demo_room() -> RoomConfig:
    """That for this machine, before torch can be asked: who has NVIDIA's driver mostly has a GPU that torch can use."""
    return demo_room(shutil.which("nvidia-smi") is not None)


class RoomBuild:
    """A room that is being built; one that is there already is as good as new: the same seed, the same bytes.

    Whoever starts one calls `stop` at last, however things went.

    Args:
        folder: gets the room. An earlier room of the demo is replaced when the new one is complete.
        config: what is built.

    Raises:
        InputError: `folder` is something else.
    """

    def __init__(self, folder: Path, config: RoomConfig) -> None:
        self.config = config
        self._folder = folder
        self._partial = folder.with_name(f".{folder.name}-partial")
        self._content = json.dumps(repr(config)).encode()
        self._process: BaseProcess | None = None
        note = folder / _NOTE
        if note.is_file() and note.read_bytes() == self._content:
            return
        if folder.exists() and not note.is_file():
            raise InputError(f"{folder}: exists and is no room of the demo; choose another --output-dir")
        self._remove_parts()  # of a demo that was killed
        context = get_context("spawn")  # a fork would copy locks without the threads that hold them
        self._news, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_make, args=(self._partial, config, sender))
        with _interrupts_held_back():
            self._process.start()
        sender.close()  # so that the pipe ends with the process

    def finish(self, progress: Progress) -> Path:
        """Waits for the room.

        Args:
            progress: started by the caller; gets a task if there is something to wait for.

        Raises:
            InputError: the room can't be built there.
        """
        if self._process is None:
            return self._folder
        task = progress.add_task("Furnished room", total=1.0)
        try:
            while isinstance(news := self._news.recv(), float):
                progress.update(task, advance=news)
            self._process.join()  # that was its last word
        except BaseException as error:
            self.stop()
            if isinstance(error, EOFError):
                raise InputError(f"{self._folder}: the room's process died (out of memory?); try again") from None
            raise
        self._process = None
        if isinstance(news, OSError):
            why = news.strerror or news
            raise InputError(
                f"{self._folder.parent}: can't hold the room ({why}); choose another --output-dir"
            ) from news
        if news is not None:
            raise InputError(str(news)) from news
        write_atomically(self._partial / _NOTE, self._content)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._partial.rename(self._folder)  # with its note, or not at all
        return self._folder

    def stop(self) -> None:
        """Ends what has not been finished, and leaves nothing of it."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGINT)  # as Ctrl-C: it ends its own processes and removes its folder
        process.join(_GRACE)
        process.kill()  # an interrupt while it starts a process can leave it waiting for ever
        process.join()
        self._remove_parts()

    def _remove_parts(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)
        remove_leftovers(self._partial)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A process that is started inside hears of Ctrl-C when it lets it through: while it loads, it would die aloud."""
    resource_tracker.ensure_running()  # which would let them through here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _make(folder: Path, config: RoomConfig, sender: Connection) -> None:
    """Runs in the process: sends shares of the work, then None, or what is wrong."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        make_room(folder, config, sender.send)
        sender.send(None)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        with suppress(OSError):  # nobody listens any more
            sender.send(error)
    except KeyboardInterrupt:
        pass  # told by who waits for the room
