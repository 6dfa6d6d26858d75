"""Simulated particles and micrographs with known truth: specimens, their potential, noise and dirt."""
