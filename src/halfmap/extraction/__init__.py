"""From micrographs to particle images: windows, rescaling, normalisation, re-centring."""
