"""First maps from particles alone: mini-batches, fading sums, details that come in one after the other."""
