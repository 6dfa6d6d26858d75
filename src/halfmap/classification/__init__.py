"""2D classification: class averages of particle images, and what tells good classes from bad ones."""
