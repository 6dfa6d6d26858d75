"""What the microscope does to the images of a series: CTF, aberrations, and how much each image counts."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.image_series import FrameSeries, ImageSeries, TiltSeries
from halfmap.errors import InputError
from halfmap.imaging.deformation import Views, image_size, where_particles_are
from halfmap.optics.aberrations import even_index, odd_index, odd_phase, zernike
from halfmap.optics.ctf import ctf, phase_aberration
from halfmap.splines.grids import SplineGrid, values_over_images
from halfmap.splines.trajectories import path
from halfmap.units import electron_wavelength_angstrom

N_EVEN, N_ODD = 8, 12
CTF_PARAMETERS = (
    "defocus",
    "astigmatism_a",
    "astigmatism_b",
    "phase_shift",
    "spherical_aberration",
    *(f"even_zernike_{i}" for i in range(N_EVEN)),
)
"""What γ is linear in: Å; U − V times cos and sin of twice the angle of U, Å; radians; mm; radians Å^n."""

_ANGSTROM_PER_MM = 1e7
_SCALE_OF_UNUSED = 1e-4
_B_PER_DOSE, _WEAKEST_B_PER_DOSE = -4.0, -3.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCtf:
    """The CTF of P particles in T images: float64 tensors, (P, T).

    Parameters
    ----------
    defocus_u_angstrom, defocus_v_angstrom, defocus_angle_degrees : underfocus positive, U's angle from +x.
    phase_shift_degrees : of a phase plate.
    spherical_aberration_mm : of the objective, where it differs from place to place.
    """

    defocus_u_angstrom: Tensor
    defocus_v_angstrom: Tensor
    defocus_angle_degrees: Tensor
    phase_shift_degrees: Tensor
    spherical_aberration_mm: Tensor


def image_ctf(series: ImageSeries, position_angstrom: Tensor, seen: Views) -> ImageCtf:
    """Return the CTF's parameters for each particle in each image.

    Parameters
    ----------
    series : a `TiltSeries` or a `FrameSeries`.
    position_angstrom : shape (P, n, 3), as for `halfmap.imaging.deformation.views`.
    seen : the particles' views; their depth adds to the defocus.

    Returns
    -------
    ImageCtf
        Differentiable in grids and depth. Defoci of a tilt series are those at the middle of each image, of a frame
        series those at the particle.
    """
    where = _where(series, position_angstrom, seen)

    def at(grid: SplineGrid) -> Tensor:
        return values_over_images(grid, where, series.image_time)

    defocus = at(series.defocus_angstrom) + seen.depth_angstrom
    aberration = torch.full_like(defocus, series.optics.spherical_aberration_mm)
    if isinstance(series, FrameSeries):
        defocus = defocus + at(series.doming_angstrom)
        aberration = aberration + at(series.spherical_aberration_offset_mm)
    half_difference = at(series.astigmatism_angstrom) / 2
    return ImageCtf(
        defocus_u_angstrom=defocus + half_difference,
        defocus_v_angstrom=defocus - half_difference,
        defocus_angle_degrees=at(series.astigmatism_angle_degrees),
        phase_shift_degrees=at(series.phase_shift_degrees),
        spherical_aberration_mm=aberration,
    )


def ctf_values(series: ImageSeries, table: ImageCtf, frequencies: Tensor) -> Tensor:
    """Return the CTF, float32, (P, T, K); positive where frequency is low, for bright particles.

    Parameters
    ----------
    frequencies : shape (K, 2)
        (x, y) in 1/Å, as recorded: magnification is not applied to them.
    """
    return ctf(frequencies, **_parameters(series, table))


def ctf_gamma_derivative(series: ImageSeries, table: ImageCtf, frequencies: Tensor) -> Tensor:
    """Return ∂CTF/∂γ = −cos γ, float32, (P, T, K); parameters as for `ctf_values`."""
    return -phase_aberration(frequencies, **_parameters(series, table)).cos().to(torch.float32)


def ctf_and_derivative(series: ImageSeries, table: ImageCtf, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return the CTF and its derivative by γ, float32, from one γ; parameters as for `ctf_values`."""
    phase = phase_aberration(frequencies, **_parameters(series, table))
    folded = (phase - 2 * math.pi * torch.round(phase / (2 * math.pi))).to(torch.float32)
    return -folded.sin(), -folded.cos()


def phase_basis(series: ImageSeries, name: str, frequencies: Tensor) -> Tensor:
    """Return ∂γ/∂parameter, float64, (K,).

    Parameters
    ----------
    name : one of `CTF_PARAMETERS`.
    frequencies : shape (K, 2), in 1/Å.

    Raises
    ------
    InputError
        The CTF has no such parameter.
    """
    x, y = frequencies.double().unbind(-1)
    wavelength = electron_wavelength_angstrom(series.optics.voltage_kv)
    if name == "defocus":
        return -math.pi * wavelength * (x * x + y * y)
    if name == "astigmatism_a":
        return -math.pi / 2 * wavelength * (x * x - y * y)
    if name == "astigmatism_b":
        return -math.pi * wavelength * x * y
    if name == "phase_shift":
        return torch.full_like(x, -1.0)
    if name == "spherical_aberration":
        return math.pi / 2 * _ANGSTROM_PER_MM * wavelength**3 * (x * x + y * y).square()
    if name in CTF_PARAMETERS:
        return zernike(frequencies, *even_index(int(name.removeprefix("even_zernike_")) + 1))
    raise InputError(f"A parameter of the CTF must be one of {', '.join(CTF_PARAMETERS)}; got {name!r}.")


def odd_basis(index: int, frequencies: Tensor) -> Tensor:
    """Return what a coefficient of the odd Zernike polynomials adds to the phase, float64, (K,)."""
    return zernike(frequencies, *odd_index(index))


def odd_phase_factors(series: ImageSeries, frequencies: Tensor) -> Tensor | None:
    """Return by what odd aberrations multiply what is recorded, complex64, (K,); None where there are none."""
    if not np.any(series.optics.odd_zernike):
        return None
    phase = odd_phase(
        frequencies,
        odd_zernike=series.optics.odd_zernike,
        voltage_kv=series.optics.voltage_kv,
        spherical_aberration_mm=series.optics.spherical_aberration_mm,
    )
    return torch.polar(torch.ones_like(phase), phase).to(torch.complex64)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageWeights:
    """How much each image counts: scale × exp(B s² / 4), worked out at frequencies of one image at a time.

    Parameters
    ----------
    scale, b_factor_angstrom2 : float64, (T,) where the place does not matter, else (P, T).
    difference_angstrom2, axis_rad : what B has more along an axis, and less across it; twice the axis' angle from +x;
        float64, (T,).
    """

    scale: Tensor
    b_factor_angstrom2: Tensor
    difference_angstrom2: Tensor
    axis_rad: Tensor

    def of_image(self, image: int, frequencies: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return the weights of an image, float32, (K,) where the place does not matter, else (n, K).

        Parameters
        ----------
        frequencies : shape (K, 2), in 1/Å.
        rows : which particles.
        """

        def here(values: Tensor) -> Tensor:
            return (values[image] if values.dim() == 1 else values[rows, image])[..., None]

        x, y = frequencies.double().unbind(-1)
        quarter = (x * x + y * y) / 4
        direction = (2 * torch.atan2(y, x) - self.axis_rad[image]).cos()
        damping = here(self.b_factor_angstrom2) * quarter
        damping += self.difference_angstrom2[image] * direction * quarter
        return damping.exp_().mul_(here(self.scale)).to(torch.float32)


def weights_of_images(series: ImageSeries, seen: Views, *, of_whole_series: bool = False) -> ImageWeights:
    """Return how much each image counts.

    Parameters
    ----------
    seen : the particles' views; weights may depend on their places.
    of_whole_series : whether the weight of the series among others counts, as in reconstruction.

    Notes
    -----
    As M. Without estimates, a tilt counts by the cosine of its angle, and B is −4 Å² for each e/Å² that the sample had
    taken before it (until its middle, for frames). An estimated B of a tilt is no weaker than −3 Å² for each e/Å².
    Images that are not used keep 1e-4 of their scale.
    """
    weights, time, n = series.weights, series.image_time, len(series)
    middle = torch.full((n, 2), 0.5, dtype=torch.float64)
    places = (weights.scale_of_place, weights.b_factor_of_place_angstrom2)
    where = middle if all(grid.values.numel() == 1 for grid in places) else seen.position_angstrom / image_size(series)
    scale_there, b_there = (values_over_images(grid, where, time) for grid in places)
    scale, b_factor = image_scales(series) * scale_there, image_b_factors(series) + b_there
    if of_whole_series:
        scale, b_factor = scale * weights.series_scale, b_factor + weights.series_b_factor_angstrom2
    return ImageWeights(
        scale=scale,
        b_factor_angstrom2=b_factor,
        difference_angstrom2=values_over_images(weights.b_factor_difference_angstrom2, middle, time),
        axis_rad=2 * torch.deg2rad(values_over_images(weights.b_factor_angle_degrees, middle, time)),
    )


def image_weights(series: ImageSeries, seen: Views, frequencies: Tensor, *, of_whole_series: bool = False) -> Tensor:
    """Return the weights of all images at once, for few frequencies or particles; as of `weights_of_images`.

    Returns
    -------
    float32, (T, K) where the place does not matter, else (P, T, K)
    """
    weights = weights_of_images(series, seen, of_whole_series=of_whole_series)
    return torch.stack([weights.of_image(t, frequencies) for t in range(len(series))], dim=-2)


def image_scales(series: ImageSeries) -> Tensor:
    """Return the scale of each image without place and series, float64, (T,); see `weights_of_images`."""
    grid = series.weights.scale
    if grid.values.numel() > 1:
        scale = values_over_images(grid, torch.full((len(series), 2), 0.5, dtype=torch.float64), series.image_time)
    elif isinstance(series, TiltSeries):
        scale = torch.deg2rad(torch.as_tensor(series.tilt_angle_degrees, dtype=torch.float64)).cos()
    else:
        scale = torch.ones(len(series), dtype=torch.float64)
    return torch.where(torch.as_tensor(series.is_used), scale, scale * _SCALE_OF_UNUSED)


def image_b_factors(series: ImageSeries) -> Tensor:
    """Return B of each image in Å², without place, anisotropy and series, float64, (T,); see `weights_of_images`."""
    grid = series.weights.b_factor_angstrom2
    dose = torch.as_tensor(series.dose_e_per_angstrom2, dtype=torch.float64)
    if grid.values.numel() > 1:
        middle = torch.full((len(series), 2), 0.5, dtype=torch.float64)
        estimated = values_over_images(grid, middle, series.image_time)
        return torch.minimum(estimated, _WEAKEST_B_PER_DOSE * dose) if isinstance(series, TiltSeries) else estimated
    if isinstance(series, FrameSeries):
        dose = dose + series.dose_per_image_e_per_angstrom2 / 2
    return _B_PER_DOSE * dose


def _where(series: ImageSeries, position_angstrom: Tensor, seen: Views) -> Tensor:
    """Return where the grids of the CTF are read, 0 to 1, (P, T, 2)."""
    if isinstance(series, FrameSeries):
        return where_particles_are(series, path(position_angstrom, series.dose_time))
    return torch.full_like(seen.position_angstrom, 0.5)


def _parameters(series: ImageSeries, table: ImageCtf) -> dict[str, Any]:
    optics = series.optics
    return {
        "defocus_u_angstrom": table.defocus_u_angstrom,
        "defocus_v_angstrom": table.defocus_v_angstrom,
        "defocus_angle_degrees": table.defocus_angle_degrees,
        "phase_shift_degrees": table.phase_shift_degrees,
        "spherical_aberration_mm": table.spherical_aberration_mm,
        "voltage_kv": optics.voltage_kv,
        "amplitude_contrast": optics.amplitude_contrast,
        "even_zernike": _with_constant(optics.even_zernike),
    }


def _with_constant(even_zernike: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return coefficients from the constant one on, which series leave out; none where all are zero."""
    if not np.any(even_zernike):
        return np.zeros(0)
    return np.concatenate([[0.0], even_zernike])
