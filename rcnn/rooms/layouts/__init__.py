"""Where furniture stands: floor plans, openings, and one layout per kind of room."""
