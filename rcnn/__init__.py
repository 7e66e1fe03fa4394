"""Furnished rooms and, built on them, the 3D detector. Needs no nerfstudio."""
