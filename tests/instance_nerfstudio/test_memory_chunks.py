"""Work goes on in smaller pieces when memory runs out."""

import pytest
import torch

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.memory_chunks import in_chunks


def test_chunks_are_halved_when_memory_runs_out(monkeypatch):
    said = []
    monkeypatch.setattr("instance_nerfstudio.memory_chunks.CONSOLE.print", lambda text, **_: said.append(text))
    done, limit = [], 300

    def function(start: int, end: int) -> None:
        if end - start > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        done.append((start, end))

    reported = []
    assert in_chunks(function, 1100, 1024, "lower it", reported.append) == 256
    assert done == [(0, 256), (256, 512), (512, 768), (768, 1024), (1024, 1100)]
    assert reported[-1] == 1100
    assert [text.split(" rays ")[0].split()[-1] for text in said] == ["512", "256"]
    limit = 0
    with pytest.raises(InputError, match="out of GPU memory") as caught:
        in_chunks(function, 1100, 1024, "lower it", smallest=256)
    assert "\n" not in str(caught.value)
    with pytest.raises(ZeroDivisionError):
        in_chunks(lambda start, _: divmod(1, start) and None, 10, 5, "lower it")
