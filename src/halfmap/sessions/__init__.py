"""Sessions: 2D classification while a microscope runs; no HTTP here."""
