"""3D classification: particles parted among several maps."""
