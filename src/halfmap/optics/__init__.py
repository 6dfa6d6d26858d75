"""What the microscope does to an image: contrast transfer, aberrations, radiation dose."""
