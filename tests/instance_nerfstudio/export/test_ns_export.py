"""The hook that adds exports to `ns-export`, on a stand-in for nerfstudio's exporter and on the installed script."""

import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from instance_nerfstudio.export.ns_export import extend_ns_export

EXPORTER = "nerfstudio.scripts.exporter"
# What matters of nerfstudio's exporter: plugins are loaded before `Commands` and `entrypoint` exist.
EXPORTER_SOURCE = """
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Union

import tyro

load_plugins()
ran = []

def eval_setup(load_config):
    return None, load_config, None, 0

@dataclass
class ExportPointCloud:
    output_dir: Path

    def main(self):
        ran.append(self)

@dataclass
class ExportCameras(ExportPointCloud):
    pass

@dataclass
class ExportGaussianSplat(ExportPointCloud):
    def main(self):
        ran.append(eval_setup(self.output_dir))

Commands = tyro.conf.FlagConversionOff[
    Union[
        Annotated[ExportGaussianSplat, tyro.conf.subcommand(name="gaussian-splat")],
        Annotated[ExportPointCloud, tyro.conf.subcommand(name="pointcloud")],
        Annotated[ExportCameras, tyro.conf.subcommand(name="cameras")],
    ]
]

def entrypoint():
    tyro.cli(Commands).main()
"""


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(EXPORTER)
    module.load_plugins = extend_ns_export  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, EXPORTER, module)
    exec(EXPORTER_SOURCE, module.__dict__)
    return module


def _call_like_the_script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["ns-export", *arguments])
    from nerfstudio.scripts.exporter import entrypoint  # type: ignore[import]

    entrypoint()


def test_exports_join_the_stock_commands(
    exporter: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        _call_like_the_script(monkeypatch, "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("masks", "instances", "density", "pointcloud", "cameras"))


def test_masks_run(exporter: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from instance_nerfstudio.export.export_masks import ExportMasks

    ran: list[ExportMasks] = []
    monkeypatch.setattr(ExportMasks, "main", lambda self: ran.append(self))
    arguments = ("--load-config", "c.yml", "--output-dir", "o", "--format", "png", "coco", "--overwrite", "True")
    _call_like_the_script(monkeypatch, "masks", *arguments)
    assert ran == [ExportMasks(Path("c.yml"), Path("o"), format=("png", "coco"), overwrite=True)]


def test_density_runs(exporter: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from instance_nerfstudio.export.density import ExportDensity

    ran: list[ExportDensity] = []
    monkeypatch.setattr(ExportDensity, "main", lambda self: ran.append(self))
    box = ("-1", "0", "0", "1", "2", "3")
    arguments = ("--load-config", "c.yml", "--output", "o.npz", "--bbox", *box, "--format", "nerf-rpn")
    _call_like_the_script(monkeypatch, "density", *arguments)
    assert ran == [ExportDensity(Path("c.yml"), Path("o.npz"), bbox=(-1, 0, 0, 1, 2, 3), format="nerf-rpn")]


def test_instances_run(exporter: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from instance_nerfstudio.export.export_instances import ExportInstances

    ran: list[ExportInstances] = []
    monkeypatch.setattr(ExportInstances, "main", lambda self: ran.append(self))
    _call_like_the_script(monkeypatch, "instances", "--load-config", "c.yml", "--output-dir", "o", "--ids", "3", "5")
    assert ran == [ExportInstances(Path("c.yml"), Path("o"), ids=(3, 5))]


def test_stock_commands_still_run(exporter: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    _call_like_the_script(monkeypatch, "cameras", "--output-dir", "o")
    assert exporter.ran == [exporter.ExportCameras(Path("o"))]


def test_splats_are_written_for_viewers_that_do_not_antialias(
    exporter: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from instance_nerfstudio.splats import classic_splats

    monkeypatch.setattr(classic_splats, "exported_classic", lambda setup: lambda folder: (setup(folder), "classic"))
    _call_like_the_script(monkeypatch, "gaussian-splat", "--output-dir", "o")
    assert exporter.ran == [((None, Path("o"), None, 0), "classic")]


def test_extending_twice_is_harmless(exporter: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    extend_ns_export()
    _call_like_the_script(monkeypatch, "pointcloud", "--output-dir", "o")
    assert len(exporter.ran) == 1


def test_other_commands_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, EXPORTER, raising=False)
    extend_ns_export()
    assert EXPORTER not in sys.modules


def test_plugin_load_stays_light() -> None:
    heavy = ("torch", "numpy", "nerfstudio", "tyro", "instance_nerfstudio.export.export_masks", "rcnn")
    code = (
        "import sys, instance_nerfstudio.export.ns_export as hook; hook.extend_ns_export(); "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_module_alias_exports_without_the_stock_commands() -> None:
    command = [sys.executable, "-m", "instance_nerfstudio.export.ns_export"]
    bad = ["density", "--load-config", "missing.yml", "--output", "o.npz"]
    done = subprocess.run([*command, *bad], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: missing.yml: no such file")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_installed_script_lists_masks() -> None:
    script = Path(sysconfig.get_path("scripts")) / "ns-export"
    done = subprocess.run([str(script), "--help"], capture_output=True, text=True, check=True)
    assert "masks" in done.stdout
    assert "density" in done.stdout
    assert "pointcloud" in done.stdout
