"""The stages from photos to masks, a file each: what it depends on, and what it does."""
