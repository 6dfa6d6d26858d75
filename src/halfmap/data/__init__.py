"""Nouns: particles, micrographs, picks, optics groups, half-sets, poses, volumes; no files, no devices."""
