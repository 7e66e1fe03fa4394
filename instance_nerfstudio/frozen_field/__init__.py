"""Training the instance head alone over the radiance field of another run, on samples computed once."""
