"""Picking with a small convolutional network: how it is taught, calibrated and used."""
