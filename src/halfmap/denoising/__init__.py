"""Map denoising: each place of a half-map filtered by what the other half confirms of places like it."""
