"""Scoring class averages: from 0 (rubbish) to 1 (a real, centred view of a particle)."""
