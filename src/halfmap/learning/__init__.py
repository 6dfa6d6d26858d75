"""Fitting small networks the same way every time: initial weights, batches, augmentation, measures."""
