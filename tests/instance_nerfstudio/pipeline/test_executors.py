"""Several scenes: on this machine with real processes, by Slurm and Ray with stand-ins for submitit and ray."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.executors import local_processes, ray_tasks, scene_job, slurm_jobs
from instance_nerfstudio.pipeline.executors.local_processes import run_locally
from instance_nerfstudio.pipeline.executors.ray_tasks import run_on_ray
from instance_nerfstudio.pipeline.executors.scene_job import SceneJob
from instance_nerfstudio.pipeline.executors.slurm_jobs import RequeuedScene, SlurmOptions, run_on_slurm

WORK = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
(folder / "device").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
(folder / "pid").write_text(str(os.getpid()))
what = sys.argv[2]
if what == "bad":
    sys.exit(f"error: {folder}: no photos")
if what == "crash":
    os.kill(os.getpid(), 9)
if what == "long":
    time.sleep(60)
print("done")
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[SceneJob]]:
    """Scenes whose processes do what their options say."""
    monkeypatch.setattr(
        local_processes, "_command", lambda job: [sys.executable, "-c", WORK, str(job.folder), job.options]
    )
    return lambda *what: [SceneJob(f"room_{i}", tmp_path / f"room_{i}", kind) for i, kind in enumerate(what)]


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_every_scene_has_a_device_and_a_log(jobs) -> None:
    listed = jobs("good", "good", "good", "good")
    started = []
    results = dict(run_locally(listed, ["3", "5"], lambda job, device: started.append((job.name, device))))
    assert set(results.values()) == {None}
    assert sorted(name for name, _ in started) == [job.name for job in listed]
    devices = {(job.folder / "device").read_text() for job in listed}
    assert devices <= {"3", "5"}
    assert {(job.folder / "log.txt").read_text() for job in listed} == {"done\n"}


def test_a_scene_that_fails_stops_no_other(jobs) -> None:
    listed = jobs("bad", "crash", "good")
    results = {job.name: failure for job, failure in run_locally(listed, [""])}
    assert results == {
        "room_0": f"{listed[0].folder}: no photos",
        "room_1": f"room_1: killed by signal 9; see {listed[1].folder / 'log.txt'}",
        "room_2": None,
    }


def test_running_scenes_end_when_the_run_is_interrupted(jobs) -> None:
    listed = jobs("good", "long", "long", "long")
    results = run_locally(listed, ["0", "1"])
    assert next(results)[0].name == "room_0"
    _wait(lambda: len([job for job in listed[1:] if (job.folder / "pid").exists()]) == 2)
    pids = [int((job.folder / "pid").read_text()) for job in listed[1:3]]
    results.close()  # type: ignore[attr-defined]
    assert all(_gone(pid) for pid in pids)
    assert not (listed[3].folder / "pid").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system tells children of their parent's end")
def test_running_scenes_end_when_the_run_is_killed(tmp_path: Path) -> None:
    script = f"""
    import sys
    from pathlib import Path
    from instance_nerfstudio.pipeline.executors import local_processes
    from instance_nerfstudio.pipeline.executors.scene_job import SceneJob
    work = {WORK!r}
    local_processes._command = lambda job: [sys.executable, "-c", work, str(job.folder), job.options]
    list(local_processes.run_locally([SceneJob("room", Path({str(tmp_path / "room")!r}), "long")], [""]))
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    _wait(lambda: (tmp_path / "room" / "pid").exists() and (tmp_path / "room" / "pid").read_text() != "")
    pid = int((tmp_path / "room" / "pid").read_text())
    assert not _gone(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _wait(lambda: _gone(pid))


class FakeSlurm:
    """What of submitit is used, as its documentation describes it; jobs run when they are asked whether they are."""

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}
        self.jobs: list[Any] = []
        self.module = ModuleType("submitit")
        self.module.AutoExecutor = self.executor  # type: ignore[attr-defined]
        self.module.helpers = SimpleNamespace(  # type: ignore[attr-defined]
            DelayedSubmission=lambda function, *arguments: (function, arguments)
        )

    def executor(self, folder: str, cluster: str) -> "FakeSlurm":
        if cluster == "slurm" and self.parameters.get("missing"):
            raise RuntimeError("Could not detect Slurm")
        self.folder = folder
        return self

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters |= parameters

    def map_array(self, function: Any, items: list[Any]) -> list[Any]:
        def job(number: int, item: Any) -> Any:
            state = SimpleNamespace(cancelled=False)

            def exception() -> Exception | None:
                return RuntimeError("Traceback\nout of memory") if item.options == "crash" else None

            return SimpleNamespace(
                job_id=f"7_{number}", done=lambda: item.options != "never", exception=exception, state=state,
                result=lambda: function(item), cancel=lambda: setattr(state, "cancelled", True),
            )  # fmt: skip

        class Handle(SimpleNamespace):
            __hash__ = object.__hash__  # type: ignore[assignment]

        self.jobs = [Handle(**vars(job(i, item))) for i, item in enumerate(items)]
        return self.jobs


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_job(job: SceneJob) -> str | None:
        return f"{job.name}: no photos" if job.options == "bad" else None

    for module in (slurm_jobs, ray_tasks):
        monkeypatch.setattr(module, "run_job", run_job)
    monkeypatch.setattr(slurm_jobs, "_SECONDS_BETWEEN_LOOKS", 0.0)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, fake_run: None) -> FakeSlurm:
    fake = FakeSlurm()
    monkeypatch.setitem(sys.modules, "submitit", fake.module)
    return fake


def test_slurm_runs_an_array_with_a_gpu_each(slurm: FakeSlurm, jobs, tmp_path: Path) -> None:
    options = SlurmOptions(slurm_partition="gpu", slurm_minutes=30, slurm_at_once=2)
    results = {job.name: failure for job, failure in run_on_slurm(jobs("good", "bad", "crash"), tmp_path, options)}
    assert results == {
        "room_0": None,
        "room_1": "room_1: no photos",
        "room_2": f"room_2: job 7_2 failed (out of memory); see {tmp_path}",
    }
    assert slurm.parameters == {
        "name": "instance-nerf", "timeout_min": 30, "gpus_per_node": 1, "tasks_per_node": 1, "cpus_per_task": 8,
        "mem_gb": 32, "slurm_array_parallelism": 2, "slurm_partition": "gpu",
    }  # fmt: skip


def test_slurm_jobs_are_cancelled_when_the_run_is_interrupted(slurm: FakeSlurm, jobs, tmp_path: Path) -> None:
    results = run_on_slurm(jobs("good", "never"), tmp_path, SlurmOptions())
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert [job.state.cancelled for job in slurm.jobs] == [False, True]


def test_slurm_job_out_of_time_is_queued_again(slurm: FakeSlurm, jobs) -> None:
    (job,) = jobs("good")
    scene = RequeuedScene()
    assert scene.checkpoint(job) == (scene, (job,))


def test_slurm_that_is_not_there_is_one_line(slurm: FakeSlurm, jobs, tmp_path: Path, monkeypatch) -> None:
    slurm.parameters["missing"] = True
    with pytest.raises(InputError, match="no Slurm on this machine"):
        list(run_on_slurm(jobs("good"), tmp_path, SlurmOptions()))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"pip install 'instance-nerf\[slurm\]'"):
        list(run_on_slurm(jobs("good"), tmp_path, SlurmOptions()))


class FakeRay(ModuleType):
    """What of Ray is used, as its documentation describes it."""

    class exceptions(SimpleNamespace):
        class RayError(Exception):
            pass

    def __init__(self, gpus: int) -> None:
        super().__init__("ray")
        self.gpus, self.options, self.cancelled = gpus, {}, []

    def init(self, address: str | None, **_: Any) -> None:
        if address == "nowhere:1":
            raise ConnectionError("refused")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0, "GPU": float(self.gpus)} if self.gpus else {"CPU": 4.0}

    def remote(self, **options: Any) -> Callable:
        self.options = options
        return lambda function: SimpleNamespace(remote=lambda job: (function, job))

    def wait(self, references: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return references[:num_returns], references[num_returns:]

    def get(self, reference: Any) -> Any:
        function, job = reference
        if job.options == "crash":
            raise self.exceptions.RayError("The worker died unexpectedly\nlong story")
        return function(job)

    def cancel(self, reference: Any, force: bool) -> None:
        self.cancelled.append(reference[1].name)


@pytest.fixture
def use_ray(monkeypatch: pytest.MonkeyPatch, fake_run: None) -> Callable[[int], FakeRay]:
    def use(gpus: int) -> FakeRay:
        fake = FakeRay(gpus)
        monkeypatch.setitem(sys.modules, "ray", fake)
        return fake

    return use


@pytest.mark.parametrize("gpus", [0, 2])
def test_ray_runs_a_task_per_scene(use_ray, jobs, gpus: int) -> None:
    fake = use_ray(gpus)
    results = {job.name: failure for job, failure in run_on_ray(jobs("good", "bad", "crash"))}
    assert results["room_0"] is None
    assert results["room_1"] == "room_1: no photos"
    assert str(results["room_2"]).startswith("room_2: task failed (The worker died unexpectedly); see ")
    assert fake.options == {"num_gpus": min(gpus, 1), "max_calls": 1, "max_retries": 3}
    assert fake.cancelled == []


def test_ray_tasks_are_cancelled_when_the_run_is_interrupted(use_ray, jobs) -> None:
    fake = use_ray(1)
    results = run_on_ray(jobs("good", "good", "good"))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert fake.cancelled == ["room_1", "room_2"]


def test_ray_that_is_not_there_is_one_line(use_ray, jobs, monkeypatch) -> None:
    use_ray(1)
    with pytest.raises(InputError, match="nowhere:1: no cluster there"):
        list(run_on_ray(jobs("good"), "nowhere:1"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'instance-nerf\[ray\]'"):
        list(run_on_ray(jobs("good")))


def test_job_reports_what_is_wrong_in_one_line(tmp_path: Path, monkeypatch) -> None:
    from instance_nerfstudio.pipeline import run_scene as module
    from instance_nerfstudio.pipeline.options import SceneOptions

    job = SceneJob("room", tmp_path / "run", SceneOptions(tmp_path / "room").to_json())
    assert scene_job.run_job(job) == (
        f"{tmp_path / 'room' / 'transforms.json'}: no such file; make one with ns-process-data, or name another folder "
        "with --data"
    )

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("division by zero\nmore")

    monkeypatch.setattr(module, "run_scene", fail)
    log = tmp_path / "run" / "log.txt"
    assert scene_job.run_job(job) == f"room: failed (ZeroDivisionError: division by zero); see {log}"
    assert "Traceback" in log.read_text()
