"""Scenes on this machine: one per visible GPU at a time, or one after another without."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from instance_nerfstudio.pipeline.executors.scene_job import LOG_FILE, SceneJob

_PR_SET_PDEATHSIG = 1
_SECONDS_TO_STOP = 20.0


def run_locally(
    jobs: Sequence[SceneJob], devices: Sequence[str], started: Callable[[SceneJob, str], object] = lambda *_: None
) -> Iterator[tuple[SceneJob, str | None]]:
    """Runs every scene in a process of its own: one that dies takes no other along.

    Args:
        jobs: the scenes.
        devices: numbers of GPUs for CUDA_VISIBLE_DEVICES, or "" for none.
        started: called with each scene that begins, and its device.

    Yields:
        Scenes as they end, with None or what is wrong in one line. If the iteration ends before, running scenes are
        stopped.
    """
    waiting: queue.SimpleQueue[SceneJob] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[SceneJob, str | None]] = queue.SimpleQueue()
    running: dict[str, subprocess.Popen] = {}
    for job in jobs:
        waiting.put(job)
    stopped = threading.Event()

    def work(device: str) -> None:
        while not stopped.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                started(job, device)
                done.put((job, _run(job, device, running, stopped)))
            except Exception as error:
                done.put((job, f"{job.name}: could not be started ({error})"))

    with ThreadPoolExecutor(len(devices)) as threads:
        for device in devices:
            threads.submit(work, device)
        try:
            for _ in jobs:
                yield _next(done)
        finally:
            stopped.set()
            _stop(list(running.values()))


def visible_gpus() -> list[str]:
    """Numbers of the GPUs that this process may use, for CUDA_VISIBLE_DEVICES."""
    import torch

    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return allowed.split(",")[:count] if allowed else [str(number) for number in range(count)]


def _next(done: queue.SimpleQueue[tuple[SceneJob, str | None]]) -> tuple[SceneJob, str | None]:
    while True:
        try:
            return done.get(timeout=0.5)  # signals are served in between
        except queue.Empty:
            continue


def _run(job: SceneJob, device: str, running: dict[str, subprocess.Popen], stopped: threading.Event) -> str | None:
    job.folder.mkdir(parents=True, exist_ok=True)
    log = job.folder / LOG_FILE
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device} if device else dict(os.environ)
    with log.open("ab") as output:
        process = subprocess.Popen(
            _command(job),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C comes from us, once
            preexec_fn=_end_with_parent(),
        )
    running[job.name] = process
    if stopped.is_set():  # meanwhile
        process.terminate()
    try:
        status = process.wait()
    finally:
        del running[job.name]
    if status == 0:
        return None
    last = _last_line(log)
    if last.startswith("error: "):
        return last.removeprefix("error: ")
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{job.name}: {how}; see {log}"


def _command(job: SceneJob) -> list[str]:
    return [sys.executable, "-m", "instance_nerfstudio.pipeline.run_scene", str(job.folder), job.options]


def _end_with_parent() -> Callable[[], None] | None:
    """Linux ends the child when this process ends, also when it is killed."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded here: nothing may be loaded between fork and exec
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "")
