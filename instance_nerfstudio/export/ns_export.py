"""Adds `masks`, `instances` and `density` to `ns-export`, which offers plugins no way to do so.

Its own `gaussian-splat` writes our splats for viewers that don't antialias.

`python -m instance_nerfstudio.export.ns_export` is these exports alone. It needs neither open3d nor pymeshlab, without
whose system libraries `ns-export` doesn't start.
"""

import sys
from types import ModuleType
from typing import Annotated, Any

_EXPORTER = "nerfstudio.scripts.exporter"


class _ExporterModule(ModuleType):
    # A property of the class wins over the function of that name, which the module defines after plugins are loaded.
    entrypoint = property(lambda _: _entrypoint)


def extend_ns_export() -> None:
    """Adds the plugin's subcommands, if the running command is `ns-export`. Call it while nerfstudio loads plugins.

    nerfstudio's exporter loads plugins in the middle of its own import, and the script then takes `entrypoint` from it.
    """
    if _EXPORTER in sys.modules:
        sys.modules[_EXPORTER].__class__ = _ExporterModule


def _entrypoint() -> None:
    """`ns-export` with the plugin's subcommands."""
    import tyro

    tyro.extras.set_accent_color("bright_yellow")
    exporter: Any = sys.modules[_EXPORTER]
    command = tyro.cli(tyro.conf.FlagConversionOff[exporter.Commands | _subcommands()])
    if isinstance(command, getattr(exporter, "ExportGaussianSplat", ())):
        from instance_nerfstudio.splats.classic_splats import exported_classic

        exporter.eval_setup = exported_classic(exporter.eval_setup)
    command.main()


def _subcommands() -> Any:
    import tyro

    from instance_nerfstudio.export.density import ExportDensity
    from instance_nerfstudio.export.export_instances import ExportInstances
    from instance_nerfstudio.export.export_masks import ExportMasks

    masks = Annotated[ExportMasks, tyro.conf.subcommand(name="masks")]
    instances = Annotated[ExportInstances, tyro.conf.subcommand(name="instances")]
    return masks | instances | Annotated[ExportDensity, tyro.conf.subcommand(name="density")]


def main() -> None:
    """The plugin's exports as a command of its own."""
    import tyro

    from instance_nerfstudio.errors import show_input_errors_as_one_line

    show_input_errors_as_one_line()
    tyro.extras.set_accent_color("bright_yellow")
    tyro.cli(tyro.conf.FlagConversionOff[_subcommands()], prog="python -m instance_nerfstudio.export.ns_export").main()


if __name__ == "__main__":
    main()
