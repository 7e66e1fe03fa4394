"""Gaussian splats with instances: rasterization, the method `instance-splatfacto`, lifting, and files."""
