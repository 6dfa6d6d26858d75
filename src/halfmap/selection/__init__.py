"""Subsets of particles and micrographs: splits, values, image statistics, duplicates, joins."""
