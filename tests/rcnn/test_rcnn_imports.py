"""The detector needs no nerfstudio, and its command line starts without torch."""

import subprocess
import sys

SCRIPT = """
import importlib, pkgutil, sys

for name in ("nerfstudio", "instance_nerfstudio", "moderngl", "triton"):
    sys.modules[name] = None  # whoever imports it gets an ImportError

import rcnn.cli

assert "torch" not in sys.modules, "torch makes --help slow"
import rcnn.data

assert "torchvision" not in sys.modules, "every process that loads scenes waits for it"
import rcnn

for module in pkgutil.walk_packages(rcnn.__path__, "rcnn."):
    if not module.name.endswith("_kernels"):  # imported where there is Triton
        importlib.import_module(module.name)
"""


def test_everything_imports_without_nerfstudio():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
