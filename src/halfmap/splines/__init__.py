"""Interpolating grids over space, time and dose, and trajectories through a few samples."""
