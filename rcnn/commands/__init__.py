"""Command lines of the detectors; what they do is imported when they run, so that --help is fast."""
