"""The electrostatic potential of atoms in ice, sampled on a grid."""

import math
from collections.abc import Iterator
from dataclasses import replace

import gemmi
import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.atomic_models import AtomicModel
from halfmap.data.volumes import Volume
from halfmap.errors import InputError, ShapeError
from halfmap.fourier.filters import apply_filter
from halfmap.grid import ImageGrid
from halfmap.kernels.point_spreading import WIDTH, spread
from halfmap.optics.dose import mean_exposure_weight

VOLT_ANGSTROM2 = 47.878
"""h² / (2π mₑ e): turns a scattering factor in Å, per Å³, into volts."""

ICE_MOLECULES_PER_ANGSTROM3 = 0.0311
"""Number density of amorphous ice at 0.93 g/cm³; its mean inner potential is then 4.5 V."""

_BOND_TO_HYDROGEN_ANGSTROM = 1.0
_B_FACTOR_STEP, _MOST_B_FACTORS = 10.0, 40
_OVERSAMPLING = 1.25
_BETA = 0.97 * math.pi * WIDTH * (1.0 - 0.5 / _OVERSAMPLING)


def electron_scattering_factor_angstrom(element: str, frequency_per_angstrom: Tensor) -> Tensor:
    """Return an element's scattering factor for electrons in Å.

    Parameters
    ----------
    element : chemical symbol.
    frequency_per_angstrom : 1/d, any shape.

    Raises
    ------
    InputError
        The element has no tabulated factor.

    References
    ----------
    International Tables for Crystallography C, table 4.3.2.2 (five Gaussians), as gemmi holds it.
    """
    coefficients = gemmi.Element(element).c4322
    if coefficients is None:
        raise InputError(f"An atom must be of an element with a scattering factor; got {element!r}; remove it.")
    quarter = 0.25 * frequency_per_angstrom**2
    total = torch.zeros_like(quarter)
    for a, b in zip(coefficients.a, coefficients.b, strict=True):
        total += a * torch.exp(-b * quarter)
    return total


def faded(
    volume: Volume, *, envelope_b_factor_angstrom2: float, dose_e_per_angstrom2: tuple[float, float], voltage_kv: float
) -> Volume:
    """Return a potential as a summed exposure shows it: under the microscope's envelope, faded by the radiation.

    Parameters
    ----------
    volume : of `potential_of_atoms`.
    envelope_b_factor_angstrom2 : of the envelope exp(−B s²/4).
    dose_e_per_angstrom2 : exposure before and after what was summed; equal ones fade nothing.
    voltage_kv : acceleration voltage.
    """
    grid = volume.grid
    s = grid.frequencies().norm(dim=-1)
    multiplier = torch.exp(-0.25 * envelope_b_factor_angstrom2 * s**2)
    if dose_e_per_angstrom2[1] > dose_e_per_angstrom2[0]:
        multiplier = multiplier * mean_exposure_weight(s, *dose_e_per_angstrom2, voltage_kv)
    return Volume(values=apply_filter(volume.values, grid, multiplier.to(torch.float32)), grid=grid)


def ice_potential_volt() -> float:
    """Return the mean inner potential of amorphous ice."""
    zero = torch.zeros(1, dtype=torch.float64)
    molecule = electron_scattering_factor_angstrom("O", zero) + 2 * electron_scattering_factor_angstrom("H", zero)
    return VOLT_ANGSTROM2 * ICE_MOLECULES_PER_ANGSTROM3 * float(molecule)


def potential_of_atoms(
    model: AtomicModel,
    grid: ImageGrid,
    *,
    b_factor_angstrom2: float = 30.0,
    b_factor_scaling: float = 0.0,
    solvent: bool = True,
) -> Volume:
    """Sample the potential of a model, less that of the ice it displaces.

    Parameters
    ----------
    model : atoms in Å from the volume's centre.
    grid : cubic or not, three sides; it must hold every atom.
    b_factor_angstrom2 : damping exp(−B s²/4) that all atoms share; negative sharpens.
    b_factor_scaling : what each atom's own B-factor, which adds to it, is multiplied by; 0 leaves it out.
    solvent : whether to subtract the displaced ice; without it the model stands in vacuum.

    Returns
    -------
    Volume
        float32, in volts: the mean over each voxel of the potential, cut at the Nyquist sphere.

    Raises
    ------
    InputError
        An atom lies outside the grid, or the B-factor of one is negative altogether.

    Notes
    -----
    Each atom scatters as the sum of its five Gaussians, its riding hydrogens on a shell of 1 Å, and,
    with a minus sign, a Gaussian of ice of the atom's volume v, ρ v exp(−π s² v^(2/3)); so the solvent
    is flat outside the model, inside its channels and cavities, and under it. Points are spread on a grid
    1.25 times finer, whose transform is divided by the kernel's: the result is the exact Fourier sum
    to about 1e-4 of its largest coefficient, wherever atoms lie between voxels. Each atom's own B-factor is shared
    between the two nearest of values some 10 Å² apart: at 3 Å that changes its scattering by 1 % at most.

    References
    ----------
    Fraser, MacRae, Suzuki 1978 (displaced solvent as Gaussians); Barnett, Magland, af Klinteberg 2019
    (the spreading kernel); Kirkland, "Advanced computing in electron microscopy", ch. 5 (units).
    """
    if grid.ndim != 3:
        raise ShapeError(f"The grid of a potential must have three sides; got {grid.shape}.")
    own = model.b_factors_angstrom2 * b_factor_scaling
    least = b_factor_angstrom2 + float(own.min(initial=np.inf))
    if least < 0:
        raise InputError(f"A B-factor must not be negative here; got {least:g} Å² for an atom; raise it.")
    _check_inside(model, grid)
    frequencies = grid.frequencies(dtype=torch.float32)
    s = frequencies.norm(dim=-1)
    del frequencies
    inside = s < 0.5 / grid.pixel_size_angstrom
    s = s[inside]
    fine_shape = tuple(scipy.fft.next_fast_len(math.ceil(side * _OVERSAMPLING), real=True) for side in grid.shape)
    transform = torch.zeros(grid.rfft_shape, dtype=torch.complex64)
    band = torch.zeros(s.shape, dtype=torch.complex64)
    for element, hydrogens, volume, atoms in _kinds(model):
        factor = electron_scattering_factor_angstrom(element, s)
        if hydrogens:
            shell = torch.exp(-((2 * math.pi * _BOND_TO_HYDROGEN_ANGSTROM * s) ** 2) / 6)
            factor += hydrogens * shell * electron_scattering_factor_angstrom("H", s)
        if solvent:
            displaced = ice_potential_volt() / VOLT_ANGSTROM2 * volume
            factor -= displaced * torch.exp(-math.pi * volume ** (2 / 3) * s**2)
        for moving, shares in _shared_b_factors(own[atoms]):
            part = model.take(atoms[shares > 0])
            part = replace(part, occupancies=part.occupancies * shares[shares > 0])
            damped = factor if moving == 0 else factor * torch.exp(-0.25 * moving * s**2)
            band += damped * _points_rfft(part, grid, fine_shape)[inside]
    voxel = grid.pixel_size_angstrom**3
    damping = torch.exp(-0.25 * b_factor_angstrom2 * s**2)
    transform[inside] = band * damping * (VOLT_ANGSTROM2 / (voxel * grid.n_pixels))
    return Volume(values=grid.irfft(transform), grid=grid)


def _kinds(model: AtomicModel) -> Iterator[tuple[str, float, float, NDArray[np.int64]]]:
    """Yield element, hydrogens, volume and indices of atoms that scatter alike."""
    keys = np.stack([model.hydrogens, model.volumes_angstrom3], axis=1).round(3)
    for element in np.unique(model.elements):
        of_element = np.flatnonzero(model.elements == element)
        kinds, kind_of = np.unique(keys[of_element], axis=0, return_inverse=True)
        for number, (hydrogens, volume) in enumerate(kinds):
            yield str(element), float(hydrogens), float(volume), of_element[kind_of.ravel() == number]


def _shared_b_factors(values: NDArray[np.float64]) -> Iterator[tuple[float, NDArray[np.float64]]]:
    """Yield B-factors and the share of each atom that has them; their mean by the shares is the atom's own."""
    low, high = float(values.min()), float(values.max())
    n = max(1, min(_MOST_B_FACTORS, math.ceil((high - low) / _B_FACTOR_STEP)))
    step = (high - low) / n
    for number in range(n + 1 if step > 0 else 1):
        shares = 1.0 - np.abs((values - low) / step - number) if step > 0 else np.ones(len(values))
        if (shares > 0).any():
            yield low + step * number, shares.clip(min=0.0)


def _points_rfft(model: AtomicModel, grid: ImageGrid, fine_shape: tuple[int, ...]) -> Tensor:
    """Return Σ occupancy exp(−2πi s·r) on the half transform of the grid, DC first, origin at the centre."""
    fine = np.zeros(fine_shape, dtype=np.float32)
    scale = np.array([f / side for f, side in zip(fine_shape, grid.shape, strict=True)])[::-1]
    positions = model.positions_angstrom / grid.pixel_size_angstrom * scale
    # neighbours in memory: atoms sorted by plane keep the touched part of the grid in cache
    order = np.argsort(np.floor(positions[:, 2]), kind="stable")
    spread(np.ascontiguousarray(positions[order]), model.occupancies[order].astype(np.float32), _BETA, fine)
    transform = torch.fft.rfftn(torch.from_numpy(fine))
    for axis, (side, fine_side) in enumerate(zip(grid.shape, fine_shape, strict=True)):
        halved = axis == 2
        kept = np.arange(side // 2 + 1) if halved else np.fft.fftfreq(side, d=1 / side).round().astype(int)
        transform = transform.index_select(axis, torch.from_numpy(kept % fine_side))
        shape = [1, 1, 1]
        shape[axis] = -1
        transform = transform / torch.from_numpy(_kernel_transform(kept / fine_side)).float().reshape(shape)
    return transform


def _kernel_transform(frequency_per_voxel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the spreading kernel's continuous transform, by Gauss–Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    kernel = np.exp(_BETA * (np.sqrt(1.0 - nodes**2) - 1.0)) * weights * (WIDTH / 2)
    waves: NDArray[np.float64] = np.cos(np.pi * WIDTH * np.outer(frequency_per_voxel, nodes))
    transform: NDArray[np.float64] = waves @ kernel
    return transform


def _check_inside(model: AtomicModel, grid: ImageGrid) -> None:
    if len(model) == 0:
        raise InputError("A model must hold atoms; got none; check the file and the assembly.")
    half = np.array(grid.shape[::-1]) / 2 * grid.pixel_size_angstrom
    furthest = np.abs(model.positions_angstrom).max(axis=0)
    if (furthest > half).any():
        needed = math.ceil(2 * float(furthest.max()) / grid.pixel_size_angstrom)
        raise InputError(
            f"The box must hold the whole model; got sides {grid.shape[::-1]} px of {grid.pixel_size_angstrom:g} Å for "
            f"atoms up to {furthest.max():.0f} Å from the centre; use at least {needed} px or centre the model."
        )
