"""How long the Triton kernels of `instance-nerfacto` take to compile, by stage; needs no GPU.

    python tests/benchmarks/kernel_compile.py [--capability 90] [--threads 4]
    python tests/benchmarks/kernel_compile.py --write

Kernels and variants are those that training and rendering launch, found by a rehearsal. First each is compiled alone,
then all together by threads, each time into an empty cache. Building a launcher, which Triton before 3.7 does with the
C compiler, and loading are not in it: they need CUDA's driver. `--write` only writes down which they are.
"""

import json
import os
import resource
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from types import SimpleNamespace
from typing import Any, cast

import torch
import tyro
from rich.console import Console
from rich.table import Table

from instance_nerfstudio.known_kernels import KNOWN_KERNELS_FILE, described

STAGES = ("ttir", "ttgir", "llir", "ptx", "cubin")


@dataclass
class KernelCompile:
    """Options of the benchmark."""

    capability: int = 90
    """Compute capability of the GPU, times ten."""
    threads: int = len(os.sched_getaffinity(0))
    """Threads that compile together."""
    write: bool = False
    """Only write `known_kernels.json`, from which the demo compiles them."""

    def main(self) -> None:
        """Compiles and prints the table."""
        if self.write:
            lines = ",\n".join(json.dumps(one) for one in described(rehearse()))
            KNOWN_KERNELS_FILE.write_text(f"[\n{lines}\n]\n")
            return
        import triton
        from triton import knobs
        from triton.backends.compiler import GPUTarget
        from triton.runtime.driver import driver

        gpu = SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", self.capability, 32),
            get_current_device=lambda: 0,
            get_current_stream=lambda _: 0,
        )
        driver.set_active(cast(Any, gpu))
        told: dict[str, Any] = {}
        knobs.compilation.listener = lambda **arguments: told.update(arguments)

        table = Table(title=f"Triton {triton.__version__}, sm_{self.capability}: seconds to compile")
        for column in ("kernel", "constants", "to IR", *STAGES, "wall", "CPU"):
            table.add_column(column, justify="left" if column in ("kernel", "constants") else "right")
        total = [0.0, 0.0]
        launches = rehearse()
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TRITON_CACHE_DIR"] = cache
            launches[0].kernel.warmup(*launches[0].arguments, grid=(1,), **launches[0].constants)  # Triton loads
        for launch in launches:
            seconds = timed(lambda launch=launch: compile_all([launch], 1))
            total = [a + b for a, b in zip(total, seconds, strict=True)]
            stages = dict(told["times"].lowering_stages)
            constants = ", ".join(str(value) for value in launch.constants.values() if isinstance(value, int | str))
            times = [told["times"].ir_initialization, *(stages[stage] for stage in STAGES)]
            table.add_row(
                launch.kernel.__name__, constants, *(f"{time / 1e6:.2f}" for time in times),
                *(f"{value:.2f}" for value in seconds),
            )  # fmt: skip
        table.add_row("one by one", *[""] * (2 + len(STAGES)), *(f"{value:.1f}" for value in total))
        together = timed(lambda: compile_all(launches, self.threads))
        table.add_row(f"{self.threads} threads", *[""] * (2 + len(STAGES)), *(f"{value:.1f}" for value in together))
        Console(width=160).print(table)


def rehearse() -> list[Any]:
    """A launch of each variant."""
    from instance_nerfstudio import method_config
    from instance_nerfstudio.compile_ahead import rehearsed_launches
    from instance_nerfstudio.hash_grids import implementation

    implementation.triton_problem = cast(Any, lambda _: None)  # there need be no GPU
    config: Any = method_config.instance_nerfacto.config.pipeline.model
    launches = rehearsed_launches(config, torch.device("cuda", 0))
    return list({launch.variant: launch for launch in launches}.values())


def compile_all(launches: list[Any], threads: int) -> None:
    """Compiles anew what was compiled before."""
    for launch in launches:
        launch.kernel.device_caches.clear()
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(threads) as executor:
        os.environ["TRITON_CACHE_DIR"] = cache
        list(executor.map(lambda one: one.kernel.warmup(*one.arguments, grid=(1,), **one.constants), launches))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time, this process's and its children's (ptxas)."""

    def used() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start, before = perf_counter(), used()
    work()
    return perf_counter() - start, used() - before


if __name__ == "__main__":
    tyro.cli(KernelCompile).main()
