"""Transforms of images and volumes: bands, shells, filters, resampling and slices."""
