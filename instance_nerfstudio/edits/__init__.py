"""Corrections of a trained run's instances: a small file beside the run that every later command honours."""
