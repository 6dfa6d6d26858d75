"""3D refinement: two half-maps that share nothing beyond a stated join."""
