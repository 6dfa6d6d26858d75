"""Nouns: particles, picks, optics, volumes and the sources of images."""
