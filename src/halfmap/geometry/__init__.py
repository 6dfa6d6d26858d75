"""Rotations, symmetry, orientation grids, translations and shapes."""
