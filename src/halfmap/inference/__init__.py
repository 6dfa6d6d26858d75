"""What every inference shares: scores of images against references, posteriors, sums and updates."""
