"""The workarounds that nerfstudio 1.1.5 needs on current torch and on closed networks, all in one place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch

from instance_nerfstudio.image_metrics import UnavailableLPIPS, lpips_weights


def allow_numpy_scalars_in_checkpoints() -> None:
    """Lets `torch.load(weights_only=True)` read nerfstudio's checkpoints, also plain nerfacto's.

    nerfstudio's schedulers return `np.float64` learning rates, which end up in the checkpoint and which torch >= 2.6
    refuses. The three names below construct numbers only, so loading stays safe. The scalar's constructor has two
    names because numpy 2 moved it.
    """
    scalar = np.float64(0).__reduce__()[0]
    names: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    torch.serialization.add_safe_globals([*names, np.dtype, type(np.dtype(np.float64))])


@contextmanager
def lpips_without_download() -> Iterator[None]:
    """While open, LPIPS is built with the AlexNet weights in torch's cache, or as `UnavailableLPIPS` without them.

    For models of others; `light_image_metrics` is for ours.
    """
    import torchmetrics.image.lpip as lpip

    original = lpip.LearnedPerceptualImagePatchSimilarity
    if not lpips_weights().is_file():
        setattr(lpip, original.__name__, UnavailableLPIPS)
    try:
        yield
    finally:
        setattr(lpip, original.__name__, original)


def put_off_compilation() -> None:
    """Has functions that nerfstudio compiles when it is imported compiled when they are called first.

    There is one, of splatfacto's, which nothing here calls; for it all of torch's compiler is loaded, for seconds. To
    be called before nerfstudio's models are imported.
    """
    from nerfstudio.utils import misc

    eager = misc.torch_compile

    def torch_compile(*args: Any, **kwargs: Any) -> Any:
        if args:
            return eager(*args, **kwargs)

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            compiled: list[Callable[..., Any]] = []

            @wraps(function)
            def compiled_later(*inputs: Any, **options: Any) -> Any:
                if not compiled:
                    compiled.append(eager(**kwargs)(function))
                return compiled[0](*inputs, **options)

            return compiled_later

        return decorate

    misc.torch_compile = torch_compile
