"""Instance fields for nerfstudio. Import stays light: nerfstudio loads this package in every `ns-*` command."""

__version__ = "0.1.0"
