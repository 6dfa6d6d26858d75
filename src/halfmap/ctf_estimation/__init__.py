"""The contrast transfer function of micrographs and tilts, from the rings in their power spectra."""
