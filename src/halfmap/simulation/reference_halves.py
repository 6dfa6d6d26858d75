"""Half-maps of a stated resolution, and a mask, to begin the refinement of simulated series with."""

import numpy as np
import torch

from halfmap import keyed_random
from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.fourier.resample import crop_or_pad
from halfmap.grid import ImageGrid
from halfmap.postprocessing.masks import extended, low_passed
from halfmap.simulation.references import Reference

_NOISE_TO_SIGNAL = 6.0  # where the FSC of two halves is 1 / (1 + 6) = 0.143
_STEEPNESS = 6
_MASK_RESOLUTION_ANGSTROM = 12.0
_MASK_LEVEL = 0.1
_MASK_EXTENSION_ANGSTROM = 3.0


def species_box_pixel(reference: Reference) -> int:
    """Return the side of a species' maps: twice its diameter in whole Å, as M has it."""
    return 2 * round(species_diameter_angstrom(reference) / reference.potential.grid.pixel_size_angstrom)


def species_diameter_angstrom(reference: Reference) -> int:
    """Return the diameter of a species in whole Å."""
    return int(np.ceil(reference.diameter_angstrom))


def true_map(reference: Reference) -> Volume:
    """Return the specimen's potential in its box."""
    potential = reference.potential
    values, grid = crop_or_pad(potential.values, potential.grid, (species_box_pixel(reference),) * 3)
    return Volume(values=values, grid=grid)


def half_maps(reference: Reference, resolution_angstrom: float, seed: int, number: int) -> tuple[Volume, Volume]:
    """Return two half-maps whose FSC is 0.143 at a resolution.

    Parameters
    ----------
    reference : the specimen.
    resolution_angstrom : may be finer than the map can hold; the finer, the less noise.
    seed, number : key of the noise; the number is the species'.

    Notes
    -----
    Each half is the truth plus noise of its own whose power is, in each shell, 6 (s d)⁶ times that of the signal, d the
    resolution and s the shell's frequency: so FSC = 1 / (1 + 6 (s d)⁶). Noise fills the box.
    """
    true = true_map(reference)
    grid = true.grid
    transform = grid.rfft(true.values)
    ratio = _NOISE_TO_SIGNAL * (shells.shell_frequencies(grid) * resolution_angstrom) ** _STEEPNESS
    power = shells.power_spectrum(transform, grid)
    white = keyed_random.normal(seed, "half-map noise", number, size=(2, *grid.shape)).astype(np.float32)
    first, second = (_with_noise(transform, torch.from_numpy(noise), power * ratio, grid) for noise in white)
    return first, second


def binary_mask(reference: Reference) -> Volume:
    """Return 1 where the low-passed specimen, and 3 Å around it, has density, else 0."""
    true = true_map(reference)
    pixel = true.grid.pixel_size_angstrom
    smooth = low_passed(true, max(_MASK_RESOLUTION_ANGSTROM, 3 * pixel)).values
    inside = extended(smooth > _MASK_LEVEL * smooth.max(), max(1.0, _MASK_EXTENSION_ANGSTROM / pixel))
    return Volume(values=inside.float(), grid=true.grid)


def _with_noise(transform: torch.Tensor, white: torch.Tensor, power: torch.Tensor, grid: ImageGrid) -> Volume:
    # the transform of white noise of variance 1 has power 1 / n in each coefficient
    amplitude = shells.spread(power.clamp(min=0).sqrt() * grid.n_pixels**0.5, grid)
    return Volume(values=grid.irfft(transform + grid.rfft(white) * amplitude).float(), grid=grid)
