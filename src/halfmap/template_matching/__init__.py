"""2D template matching: a high-resolution template found and refined in images of cells."""
