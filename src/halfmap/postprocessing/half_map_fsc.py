"""The FSC of two half maps: unmasked, masked, with randomised phases, and corrected for what the mask adds."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, InputError
from halfmap.fourier import shells
from halfmap.grid import ImageGrid
from halfmap.postprocessing import masks
from halfmap.postprocessing.params import FscParams
from halfmap.tensors import VolumesRfft

THRESHOLD = 0.143
"""FSC between independent half maps at which the resolution is read."""

DALTON_PER_CUBIC_ANGSTROM = 0.81
"""Density of protein, 1.35 g/cm³."""

PIXEL_SIZE_TOLERANCE = 1e-3
"""Largest relative difference between pixel sizes that count as one."""

GUARD_SHELLS = 2
"""From the first random one on, in which the mask mixes random and true phases, so that they are not corrected."""

_SCATTERING_SHARE = 0.476  # of a protein against its solvent, in cisTEM's and RELION's particle FSC


@dataclass(frozen=True, kw_only=True)
class JoinedShells:
    """What the halves of a refinement shared.

    Parameters
    ----------
    shell : the last one in which both had the same data; 0: none.
    reach : shells further to which poses found by these data, and the circular mask, carry agreement.
    """

    shell: int = 0
    reach: int = 0

    @classmethod
    def within(cls, shell: int, *, field_angstrom: float, mask_diameter_angstrom: float) -> "JoinedShells":
        """Return those of a refinement with a circular mask, which blurs shells by twice box over diameter."""
        return cls(shell=shell, reach=math.ceil(2 * field_angstrom / mask_diameter_angstrom))


@dataclass(frozen=True, kw_only=True, eq=False)
class HalfMapFsc:
    """Correlations of two half maps, shell by shell.

    Parameters
    ----------
    grid : of the maps.
    unmasked, masked : float64, shape (n_shells,); shell 0, which says nothing, is 1. Without a mask both are the same.
    randomised : of the masked maps whose phases were random from a shell on; float64, shape (n_shells,).
    corrected : what is left of ``masked`` without what the mask adds; float64, shape (n_shells,).
    randomise_from_shell : first shell of random phases; None where none were randomised, since there is no mask or
        the FSC never falls.
    box_over_particle : 0.476 × volume of the box / volume of the particle, for `particle`.
    joined : what the halves shared in the refinement that made them.
    band_shell : last shell that the half maps hold data of, beyond which the curves are 0; None: all do.
    """

    grid: ImageGrid
    unmasked: Tensor
    masked: Tensor
    randomised: Tensor
    corrected: Tensor
    randomise_from_shell: int | None
    box_over_particle: float
    joined: JoinedShells = JoinedShells()
    band_shell: int | None = None

    @property
    def particle(self) -> Tensor:
        """The unmasked FSC as it would be in a box that the particle fills, float64, shape (n_shells,).

        Notes
        -----
        f FSC / (1 + (f − 1) FSC), f = ``box_over_particle``: cisTEM's part_FSC. No mask's shape enters.

        References
        ----------
        Sindelar and Grigorieff 2012, J. Struct. Biol. 180, 26.
        """
        f = self.box_over_particle
        return f * self.unmasked / (1 + (f - 1) * self.unmasked)

    @property
    def resolution_angstrom(self) -> float:
        """Where the corrected FSC first falls below 0.143, interpolated between shells.

        Where that is no finer than what the halves shared reaches, it is the resolution to which they were joined.
        """
        if self.is_of_join:
            return shell_resolution_angstrom(self.joined.shell, self.grid)
        return self.crossing_angstrom

    @property
    def crossing_angstrom(self) -> float:
        """Where the corrected FSC first falls below 0.143, whatever the halves shared."""
        return self.resolution_of(self.corrected)

    def resolution_of(self, curve: Tensor, threshold: float = THRESHOLD) -> float:
        """Return where one of the curves first falls below a threshold, in Å, no finer than the end of the band."""
        finest = shell_resolution_angstrom(self.end_shell, self.grid)
        return max(finest, resolution_angstrom(curve, self.grid, threshold))

    @property
    def end_shell(self) -> int:
        """The last shell of which the curves tell: that of the band, or the last of all."""
        return len(self.corrected) - 1 if self.band_shell is None else self.band_shell

    @property
    def is_limited_by_band(self) -> bool:
        """Whether the corrected FSC stands above 0.143 where the band ends, and the band ends before Nyquist's shell.

        The last shell before that of the Nyquist frequency is the last that an image tells of.
        """
        is_cut = self.end_shell < len(self.corrected) - 2
        return is_cut and bool((self.corrected[: self.end_shell + 1] >= THRESHOLD).all())

    @property
    def is_of_join(self) -> bool:
        """Whether the corrected FSC falls below 0.143 within reach of what the halves shared."""
        reach = self.joined.shell + self.joined.reach
        return self.joined.shell > 0 and self.crossing_angstrom >= shell_resolution_angstrom(reach, self.grid)

    @property
    def last_shell(self) -> int:
        """The last shell before the corrected FSC first falls below 0.143: RELION's reading of the resolution."""
        if self.is_of_join:
            return self.joined.shell
        below = torch.nonzero(self.corrected < THRESHOLD).flatten()
        return int(below[0]) - 1 if len(below) else len(self.corrected) - 1

    @property
    def randomise_from_angstrom(self) -> float | None:
        """Resolution from which phases were random."""
        if self.randomise_from_shell is None:
            return None
        return shell_resolution_angstrom(self.randomise_from_shell, self.grid)


def shell_resolution_angstrom(shell: int, grid: ImageGrid) -> float:
    """Return the resolution of a shell; infinite for shell 0."""
    return max(grid.shape) * grid.pixel_size_angstrom / shell if shell else math.inf


def resolution_angstrom(curve: Tensor, grid: ImageGrid, threshold: float = THRESHOLD) -> float:
    """Return where a curve first falls below a threshold; see `fourier.shells.resolution_at_threshold`."""
    return shells.resolution_at_threshold(curve, grid, threshold)


def random_phases(transform: VolumesRfft, grid: ImageGrid, from_shell: int, *, seed: int, half: int) -> VolumesRfft:
    """Give coefficients random phases from a shell on; amplitudes are kept.

    Parameters
    ----------
    transform : complex, shape ``grid.rfft_shape``, of `ImageGrid.rfft`.
    from_shell : phases are replaced where |k| is at least this, in shells and not rounded, corners included.
    seed, half : key of the phases; those of the two halves are independent.

    Returns
    -------
    complex, shape of ``transform``.

    Notes
    -----
    Phases are those of white noise: uniform, and with the symmetry of a real map, so that not even the amplitudes of
    coefficients that are their own mates change. Shell ``from_shell`` itself, whose |k| begins one half below, is
    random in its outer half only, as in RELION.

    References
    ----------
    Chen et al. 2013, Ultramicroscopy 135, 24.
    """
    drawn = keyed_random.normal(seed, "random phases", np.array([half]), size=grid.shape)[0]
    noise = grid.rfft(torch.from_numpy(drawn).to(transform.device))
    noise = noise / noise.abs().clamp_min(torch.finfo(torch.float64).tiny)
    is_random = shells.shell_radius(grid, device=transform.device) >= from_shell
    return torch.where(is_random, transform.abs() * noise, transform)


def corrected_fsc(masked: Tensor, randomised: Tensor, randomise_from_shell: int) -> Tensor:
    """Take from a masked FSC what the mask adds to it.

    Parameters
    ----------
    masked : float64, shape (..., n_shells).
    randomised : of the same maps with random phases from ``randomise_from_shell`` on, shape (n_shells,).

    Returns
    -------
    float64, shape of ``masked``: (FSC − FSC_random) / (1 − FSC_random), but the masked FSC below the second shell
    after the first random one, where the mask mixes random and true phases.

    References
    ----------
    Chen et al. 2013, Ultramicroscopy 135, 24, equation 4.
    """
    room = (1 - randomised).clamp_min(1e-6)
    number = torch.arange(masked.shape[-1], device=masked.device)
    return torch.where(number < randomise_from_shell + GUARD_SHELLS, masked, (masked - randomised) / room)


def half_map_fsc(
    half1: Volume,
    half2: Volume,
    mask: Volume | None,
    params: FscParams | None = None,
    *,
    joined: JoinedShells | None = None,
    band_shell: int | None = None,
    seed: int = 1,
) -> HalfMapFsc:
    """Correlate two half maps.

    Parameters
    ----------
    half1, half2 : unfiltered, unsharpened maps of independent halves, on one grid.
    mask : values from 0 to 1, on the same grid; None correlates without.
    joined : what the halves shared; None: nothing.
    band_shell : last shell that the half maps hold data of; a mask correlates what lies beyond all the same, so it
        counts as 0. None: all hold data.
    seed : of the random phases.

    Returns
    -------
    HalfMapFsc

    Raises
    ------
    InconsistentDataError
        Sides or pixel sizes differ, or the half maps are the same map.
    InputError
        The mask's values are not from 0 to 1, or the maps hold values that are not finite.
    """
    params = params or FscParams()
    check_halves(half1, half2)
    grid = half1.grid
    first, second = (grid.rfft(half.values.double()) for half in (half1, half2))
    unmasked = _fsc(first, second, grid)
    if mask is None:
        weight = torch.ones((), dtype=torch.float64)
        fraction = 1.0
    else:
        check_same_grid(mask, half1, "The mask", "the half maps")
        weight = masks.checked_mask(mask).values.double()
        fraction = masks.volume_angstrom3(mask) / (grid.n_pixels * grid.pixel_size_angstrom**3)
    if params.molecular_mass_kilodalton is not None:
        fraction = molecular_volume_angstrom3(params.molecular_mass_kilodalton) / (
            grid.n_pixels * grid.pixel_size_angstrom**3
        )
    end = len(unmasked) if band_shell is None else band_shell + 1
    shell = _first_random_shell(unmasked[:end], grid, params) if mask is not None else None
    masked = unmasked if mask is None else _masked_fsc(half1.values.double(), half2.values.double(), weight, grid)
    if shell is None:
        randomised = corrected = masked
    else:
        first = random_phases(first, grid, shell, seed=seed, half=1)
        second = random_phases(second, grid, shell, seed=seed, half=2)
        randomised = _masked_fsc(grid.irfft(first), grid.irfft(second), weight, grid)
        corrected = corrected_fsc(masked, randomised, shell)
    for curve in (unmasked, masked, randomised, corrected):
        curve[end:] = 0.0
    return HalfMapFsc(
        grid=grid,
        unmasked=unmasked,
        masked=masked,
        randomised=randomised,
        corrected=corrected,
        randomise_from_shell=shell,
        box_over_particle=_SCATTERING_SHARE / fraction,
        joined=joined or JoinedShells(),
        band_shell=band_shell,
    )


def molecular_volume_angstrom3(mass_kilodalton: float) -> float:
    """Return the volume of a protein in Å³."""
    return 1e3 * mass_kilodalton / DALTON_PER_CUBIC_ANGSTROM


def check_halves(half1: Volume, half2: Volume) -> None:
    """Raise unless two maps can be the halves of one data set.

    Raises
    ------
    InconsistentDataError
        Sides or pixel sizes differ, or both hold the same values.
    InputError
        Values are not finite, or a map is empty.
    """
    check_same_grid(half2, half1, "Half map 2", "half map 1")
    for name, half in (("Half map 1", half1), ("Half map 2", half2)):
        if not bool(torch.isfinite(half.values).all()):
            raise InputError(f"{name} must hold finite values; got NaN or infinite ones; make the map again.")
        if not float(half.values.max()) > float(half.values.min()):
            raise InputError(f"{name} must hold a map; got one value everywhere; name the unfiltered half map.")
    if torch.equal(half1.values, half2.values):
        raise InconsistentDataError(
            "Two half maps must come from different halves of the data; got the same values in both; name half 1 "
            "and half 2 of one refinement."
        )


def check_same_grid(volume: Volume, like: Volume, name: str, like_name: str) -> None:
    """Raise `InconsistentDataError` unless a map has the sides and, to a thousandth, the pixel size of another."""
    if volume.grid.shape != like.grid.shape:
        one, other = (" × ".join(map(str, item.grid.shape[::-1])) for item in (like, volume))
        raise InconsistentDataError(
            f"{name} must have the box of {like_name}, {one} voxels; got {other}; use `halfmap volume crop` or "
            "`resample --like`."
        )
    one_size, other_size = like.grid.pixel_size_angstrom, volume.grid.pixel_size_angstrom
    if abs(other_size / one_size - 1) > PIXEL_SIZE_TOLERANCE:
        raise InconsistentDataError(
            f"{name} must have the pixel size of {like_name}, {one_size:g} Å; got {other_size:g} Å; use "
            "`halfmap volume resample --like`, or give the pixel size if the headers are wrong."
        )


def _first_random_shell(unmasked: Tensor, grid: ImageGrid, params: FscParams) -> int | None:
    """Return the first shell of random phases; None where the FSC never falls so far."""
    n_shells = shells.n_shells(grid)
    if params.randomise_from_angstrom is not None:
        shell = round(max(grid.shape) * grid.pixel_size_angstrom / params.randomise_from_angstrom)
        if not 1 <= shell < n_shells:
            raise InputError(
                f"--randomise-from must lie between the box and the Nyquist frequency, "
                f"{shell_resolution_angstrom(1, grid):.4g} and {shell_resolution_angstrom(n_shells - 1, grid):.4g} Å; "
                f"got {params.randomise_from_angstrom:g} Å; choose another or leave it out."
            )
        return shell
    below = torch.nonzero(unmasked[1:] < params.randomise_below_fsc).flatten()
    return int(below[0]) + 1 if len(below) else None


def _masked_fsc(first: Tensor, second: Tensor, weight: Tensor, grid: ImageGrid) -> Tensor:
    return _fsc(grid.rfft(first * weight), grid.rfft(second * weight), grid)


def _fsc(first: VolumesRfft, second: VolumesRfft, grid: ImageGrid) -> Tensor:
    curve = shells.fsc(first, second, grid)
    curve[0] = 1.0  # the sign of a mean is no correlation
    return curve
