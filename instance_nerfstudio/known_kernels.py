"""The kernels that `instance-nerfacto` launches with its default options, known without nerfstudio.

A rehearsal finds them, too (`compile_ahead`), after the seconds that nerfstudio takes to load. Here they come from
`known_kernels.json`, which a test compares with the rehearsal; `tests/benchmarks/kernel_compile.py --write` writes it.
"""

import json
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instance_nerfstudio.kernel_launch import Launch

KNOWN_KERNELS_FILE = Path(__file__).with_suffix(".json")
_ALIGNMENT = 16  # bytes: Triton compiles for pointers that are a multiple, or for any


def known_launches() -> list[Launch]:
    """A launch of each variant, as of a rehearsal: with tensors of no use but for their types and alignment."""
    return [_launch(known) for known in json.loads(KNOWN_KERNELS_FILE.read_text())]


def described(launches: Iterable[Launch]) -> list[dict[str, Any]]:
    """Each variant among `launches` once, in their order, as the file holds it."""
    return [_description(launch) for launch in {launch.variant: launch for launch in launches}.values()]


def _launch(known: dict[str, Any]) -> Launch:
    module, name = known["kernel"].split(":")
    arguments = tuple(_tensor(*value) if isinstance(value, list) else value for value in known["arguments"])
    constants = {
        key: getattr(import_module("triton.language"), value["type"]) if isinstance(value, dict) else value
        for key, value in known["constants"].items()
    }
    return Launch(getattr(import_module(module), name), arguments, constants)


def _description(launch: Launch) -> dict[str, Any]:
    return {
        "kernel": f"{launch.kernel.__module__}:{launch.kernel.__name__}",
        "arguments": [
            [str(value.dtype).removeprefix("torch."), value.data_ptr() % _ALIGNMENT == 0]
            if isinstance(value, Tensor)
            else value
            for value in launch.arguments
        ],
        "constants": {
            key: value if isinstance(value, str | int | float) else {"type": value.name}
            for key, value in launch.constants.items()
        },
    }


def _tensor(dtype: str, aligned: bool) -> Tensor:
    storage = torch.empty(_ALIGNMENT, dtype=getattr(torch, dtype), device="meta")
    return storage if aligned else storage[1:]
