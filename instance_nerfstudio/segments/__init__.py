"""Segments of single views: what a 2D segmenter finds in a photo."""
