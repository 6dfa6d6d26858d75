"""The forward model: how a volume becomes images, its adjoint, and noise."""
