"""Gaussian splats whose every Gaussian belongs to an instance."""
