"""Motion correction: how the frames of a movie moved, and their sums with the motion undone."""
