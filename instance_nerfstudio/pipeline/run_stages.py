"""Runs stages, each only if something of it has changed, so that a killed run goes on where it was."""

from __future__ import annotations

import gc
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.atomic_folder import replace_folder
from instance_nerfstudio.pipeline.fingerprints import FileSet, Fingerprints, digest
from instance_nerfstudio.pipeline.run_folder import HASHES_FILE, PARTIAL, RunLock
from instance_nerfstudio.pipeline.stage import RECORD_FILE, Stage, StageContext, StageRecord

Condition = Literal["done", "stale", "damaged", "missing"]
_VERSIONS_OF = ("instance-nerf", "nerfstudio", "torch")


@dataclass(frozen=True)
class StageState:
    """What is known about a stage without running it."""

    stage: Stage
    condition: Condition
    """`stale`: made from other inputs; `damaged`: files of it are gone or changed."""
    reason: str
    """What is not as it was; empty when done."""
    record: StageRecord | None
    """Of its outputs as they are."""
    interrupted: bool
    """Whether an interrupted call left part of it."""


def stage_states(stages: Sequence[Stage], folder: Path) -> list[StageState]:
    """The state of every stage of a run folder; nothing is changed."""
    fingerprints = Fingerprints(folder / HASHES_FILE)
    records: dict[str, StageRecord] = {}
    states: list[StageState] = []
    for stage in stages:
        states.append(_state(stage, folder, fingerprints, records, {state.stage.name: state for state in states}))
        record = states[-1].record
        if record is not None:
            records[stage.name] = record
    return states


def run_stages(
    stages: Sequence[Stage], folder: Path, lock: RunLock, console: Console, only: str | None = None
) -> dict[str, StageRecord]:
    """Runs what is not done yet, in order.

    Outputs appear by renaming a hidden folder, so that a stage's folder is always whole, whatever ends the process.

    Args:
        stages: each after those that it comes after.
        folder: of the run.
        lock: held for the folder.
        console: gets a line per stage and a progress bar.
        only: the single stage to run, or `refine` for all `refine-1`, ...; those before must be done.

    Returns:
        The records of the stages by name, up to `only`.

    Raises:
        InputError: of a stage; or a stage before `only` is not done.
    """
    fingerprints = Fingerprints(folder / HASHES_FILE)
    records: dict[str, StageRecord] = {}
    states: dict[str, StageState] = {}
    chosen = [stage.name for stage in stages if only is None or stage.name.partition("-")[0] == only]
    if not chosen:
        raise InputError(f"{folder}: {only} is asked for no times; give --{only}-rounds")
    needed = {*chosen, *_before(chosen, stages)}
    for stage in stages:
        if stage.name not in needed:
            continue
        state = states[stage.name] = _state(stage, folder, fingerprints, records, states)
        if state.condition == "done":
            assert state.record is not None
            records[stage.name] = state.record
            console.print(f"✓ {stage.name:<10} as it was", style="dim", markup=False, highlight=False)
        elif stage.name in chosen:
            if state.record is not None:
                line = f"· {stage.name:<10} again: {state.reason}"
                console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
            lock.tell(stage.name)
            records[stage.name] = _run(stage, folder, fingerprints, records, console)
            lock.tell(None)
            states[stage.name] = StageState(stage, "done", "", records[stage.name], False)
        else:
            raise InputError(
                f"{folder / stage.name}: is {state.condition} ({state.reason}), and {only} reads it; "
                f"run `instance-nerf {stage.name} {folder}` first, or all stages with `instance-nerf run`"
            )
        fingerprints.save()
    return records


def _before(names: Sequence[str], stages: Sequence[Stage]) -> set[str]:
    after = {stage.name: stage.after for stage in stages}
    found: set[str] = set()
    waiting = [earlier for name in names for earlier in after[name]]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += after[current]
    return found


def _state(
    stage: Stage,
    folder: Path,
    fingerprints: Fingerprints,
    records: Mapping[str, StageRecord],
    states: Mapping[str, StageState],
) -> StageState:
    target = folder / stage.name
    record = StageRecord.read(target)
    interrupted = any(folder.glob(f"{PARTIAL}{stage.name}-*"))
    if record is None:
        reason = "its record is gone or damaged" if target.exists() else "not made yet"
        return StageState(stage, "damaged" if target.exists() else "missing", reason, None, interrupted)
    old = next((name for name in stage.after if name in states and states[name].condition != "done"), None)
    if old is not None:
        return StageState(stage, "stale", f"{old} is {states[old].condition}", record, interrupted)
    inputs = _inputs(stage, fingerprints, records)
    if digest(inputs) != record.fingerprint:
        changed = [name for name in {**record.inputs, **inputs} if record.inputs.get(name) != inputs.get(name)]
        reason = f"{', '.join(changed[:3])}{' ...' if len(changed) > 3 else ''} changed"
        return StageState(stage, "stale", reason, record, interrupted)
    if lost := _changed_files(target, record, fingerprints):
        return StageState(stage, "damaged", f"{lost} is gone or changed", record, interrupted)
    return StageState(stage, "done", "", record, interrupted)


def _inputs(stage: Stage, fingerprints: Fingerprints, records: Mapping[str, StageRecord]) -> dict[str, str]:
    inputs = {"version of the stage": str(stage.version)}
    inputs |= {f"--{name.replace('_', '-')}": digest([value]) for name, value in stage.options.items()}
    inputs |= {f"--{name.replace('_', '-')}": digest(fingerprints.of(files)) for name, files in stage.inputs.items()}
    # By what they hold: a stage made again with the same result doesn't make the later ones again.
    return inputs | {name: digest(records[name].outputs) for name in stage.after}


def _products(stage: Stage, folder: Path, fingerprints: Fingerprints) -> dict[str, str]:
    names = {
        path.relative_to(folder).as_posix()
        for pattern in stage.products
        for path in folder.glob(pattern)
        if path.is_file() and path.name != RECORD_FILE and not path.name.startswith(".")
    }
    return fingerprints.of(FileSet(folder, tuple(names)))


def _changed_files(target: Path, record: StageRecord, fingerprints: Fingerprints) -> str | None:
    found = fingerprints.of(FileSet(target, tuple(record.outputs)))
    return next((name for name, value in record.outputs.items() if found[name] != value), None)


def _run(
    stage: Stage, folder: Path, fingerprints: Fingerprints, records: Mapping[str, StageRecord], console: Console
) -> StageRecord:
    start = perf_counter()
    inputs = _inputs(stage, fingerprints, records)
    fingerprint = digest(inputs)
    target, work = folder / stage.name, folder / f"{PARTIAL}{stage.name}-{fingerprint[:16]}"
    for left in _leftovers(stage, folder):
        if left != work:
            shutil.rmtree(left, ignore_errors=True)
    finished = StageRecord.read(work)  # killed between the last file and the new name
    if (
        finished is not None
        and finished.fingerprint == fingerprint
        and not _changed_files(work, finished, fingerprints)
    ):
        return _keep(finished, work, target, console)
    if not stage.resumable:
        shutil.rmtree(work, ignore_errors=True)
    resumed = work.is_dir()
    (work / RECORD_FILE).unlink(missing_ok=True)
    work.mkdir(exist_ok=True)
    columns = (TextColumn("{task.description:>20}"), BarColumn(bar_width=40), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        context = StageContext(work, target, records, progress)
        result = dict(stage.run(context))
    _free_memory()
    record = StageRecord(
        stage=stage.name,
        fingerprint=fingerprint,
        inputs=inputs,
        outputs=_products(stage, work, fingerprints),
        options=dict(stage.options) | {name: str(files.root) for name, files in stage.inputs.items()},
        seconds=round(perf_counter() - start, 3),
        resumed=resumed,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=dict(_versions()),
        result=result,
        warnings=context.warnings,
    )
    record.write(work)
    return _keep(record, work, target, console)


def _keep(record: StageRecord, work: Path, target: Path, console: Console) -> StageRecord:
    replace_folder(work, target)
    for warning in record.warnings:
        console.print(f"  {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    line = f"✓ {record.stage:<10} {record.seconds:7.1f} s  {record.result.get('summary', '')}"
    console.print(line, style="green", markup=False, highlight=False, soft_wrap=True)
    return record


def _free_memory() -> None:
    """The next stage's models are as large as this one's, and trainers hold each other in cycles."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _leftovers(stage: Stage, folder: Path) -> list[Path]:
    """Hidden folders of killed runs: partial outputs, and outputs that were just being replaced."""
    return [*folder.glob(f"{PARTIAL}{stage.name}-*"), *folder.glob(f".{stage.name}-replaced-*")]


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in _VERSIONS_OF:
        with suppress(PackageNotFoundError):
            yield name, version(name)
