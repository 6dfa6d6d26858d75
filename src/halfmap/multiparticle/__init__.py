"""Multi-particle refinement: sample, microscope and particles fitted together, one series at a time."""
