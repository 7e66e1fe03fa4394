"""Instance maps and descriptions on disk, and the colours that stand for ids."""
