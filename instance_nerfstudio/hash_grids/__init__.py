"""The multiresolution hash encoding without tiny-cuda-nn, and the choice of what computes it."""
