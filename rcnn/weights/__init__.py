"""Trained detectors on disk: safetensors, with a JSON file beside that says what they are."""

from rcnn.weights.config_json import config_from_json, config_to_json
from rcnn.weights.convert_published import convert_published
from rcnn.weights.detector_file import (
    SHIPPED,
    DetectorNotes,
    initialize,
    load_detector,
    load_instance_detector,
    read_notes,
    save_detector,
)

__all__ = [
    "SHIPPED",
    "DetectorNotes",
    "config_from_json",
    "config_to_json",
    "convert_published",
    "initialize",
    "load_detector",
    "load_instance_detector",
    "read_notes",
    "save_detector",
]
