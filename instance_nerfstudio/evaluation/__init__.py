"""Scores of predicted instances, and calibration of their probabilities."""
