"""Finding particles in micrographs: pickers, their masks and thresholds, without files."""
