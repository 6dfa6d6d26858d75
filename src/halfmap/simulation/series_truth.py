"""What is true of a series, and what its files say at first: poses of particles, and errors of the optics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap import keyed_random
from halfmap.data.image_series import FrameSeries, SeriesOptics, TiltSeries
from halfmap.errors import InputError
from halfmap.geometry.rotations import matrix_from_rotation_vector
from halfmap.optics.aberrations import even_index, odd_index
from halfmap.simulation import truth
from halfmap.simulation.series_params import SeriesSimulationParams
from halfmap.splines.grids import SplineGrid

S = TypeVar("S", TiltSeries, FrameSeries)

FOCUS = ("defocus_angstrom", "astigmatism_angstrom", "astigmatism_angle_degrees", "phase_shift_degrees")
"Grids of a series that tell how its images are focused."

_TRIES_PER_PARTICLE = 60
_PARTICLES_PER_SPECIES = 1 << 16
_SPECIES_PER_SERIES = 1 << 4
_PURE_POWERS: dict[tuple[int, int], tuple[dict[int, int], int]] = {
    (3, 3): ({3: 1}, 1),
    (3, 1): ({3: 1, 1: 2}, 3),
    (5, 5): ({5: 1}, 1),
    (5, 3): ({5: 1, 3: 4}, 5),
    (5, 1): ({5: 1, 3: 4, 1: 5}, 10),
    (4, 4): ({4: 1}, 1),
    (4, 2): ({4: 1, 2: 3}, 4),
}
"""By (n, |m|) the polynomials of the same m whose sum is a multiple of rⁿ, and that multiple."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeciesPoses:
    """The particles of one species in one series.

    Parameters
    ----------
    position_angstrom, rotation : (P, n, 3) and (P, n, 3, 3), true ones, as of `SpeciesParticles`.
    starting_position_angstrom, starting_rotation : what the files say at first.
    random_subset : (P,), 1 or 2.
    """

    position_angstrom: NDArray[np.float64]
    rotation: NDArray[np.float64]
    starting_position_angstrom: NDArray[np.float64]
    starting_rotation: NDArray[np.float64]
    random_subset: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of particles."""
        return len(self.random_subset)


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesTruth(Generic[S]):
    """One series.

    Parameters
    ----------
    number : from 0; key of its draws.
    true : how sample and microscope really were.
    starting : what the files say at first.
    species : particles of each species.
    """

    number: int
    true: S
    starting: S
    species: tuple[SpeciesPoses, ...]


def draw_species(
    number: int, params: SeriesSimulationParams, diameters_angstrom: Sequence[float], depth_angstrom: float | None
) -> tuple[SpeciesPoses, ...]:
    """Draw where particles lie and how they are turned, and where they are said to be.

    Parameters
    ----------
    number : of the series, from 0.
    params : the settings.
    diameters_angstrom : of the species.
    depth_angstrom : of the tomogram, whose middle the ice takes; None for frame series, where z is an offset of the
        defocus.

    Raises
    ------
    InputError
        The particles do not fit into the field.

    Notes
    -----
    Particles are thrown one after the other and stay where they keep clear of all others: by the mean of their
    diameters. Their images overlap where tilting lays one behind the other.
    """
    counts = [params.particles_of(species) for species in range(len(diameters_angstrom))]
    places = _thrown(number, params, diameters_angstrom, counts)
    poses = []
    for species, here in enumerate(places):
        uids = (number * _SPECIES_PER_SERIES + species) * _PARTICLES_PER_SPECIES + np.arange(len(here))
        if depth_angstrom is not None:
            here = here + np.array([0.0, 0.0, depth_angstrom / 2])
        poses.append(_with_errors(here, uids, params, is_frame_series=depth_angstrom is None))
    return tuple(poses)


def optics(params: SeriesSimulationParams) -> SeriesOptics:
    """Return the optics that the files say."""
    return SeriesOptics(
        pixel_size_angstrom=params.pixel_size_angstrom,
        voltage_kv=params.voltage_kv,
        spherical_aberration_mm=params.spherical_aberration_mm,
        amplitude_contrast=params.amplitude_contrast,
    )


def with_errors_of_optics(stated: SeriesOptics, params: SeriesSimulationParams, number: int) -> SeriesOptics:
    """Return the true optics of a series.

    Notes
    -----
    Aberrations are drawn as pure powers of frequency: Zernike polynomials at frequencies below 1/Å are nearly all
    shift, defocus and phase shift otherwise.
    """
    a, b = params.magnification_error_percent / 100 * keyed_random.normal(params.seed, "magnification", number, size=2)
    n_odd = 6 if params.odd_aberration_order == 3 else 12
    odd = np.zeros(12)
    odd[:n_odd] = _aberrations([odd_index(i) for i in range(n_odd)], "odd aberrations", params, number)
    even = _aberrations([even_index(i + 1) for i in range(8)], "even aberrations", params, number)
    return replace(
        stated,
        spherical_aberration_mm=stated.spherical_aberration_mm + params.spherical_aberration_error_mm,
        magnification=stated.magnification + np.array([[a, b], [b, -a]]),
        odd_zernike=odd * params.odd_aberration_rad,
        even_zernike=even * params.even_aberration_rad,
    )


def stated_focus(number: int, params: SeriesSimulationParams, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return grids of defocus, astigmatism and phase shift, one value each, that the files say; shape is (z, y, x)."""
    values = (*_drawn_focus(number, params), params.phase_shift_degrees)
    return {name: SplineGrid.constant(value, shape) for name, value in zip(FOCUS, values, strict=True)}


def focus_with_errors(
    number: int,
    params: SeriesSimulationParams,
    *,
    of_phase_shift: tuple[int, int, int],
    of_astigmatism: tuple[int, int, int],
) -> dict[str, Any]:
    """Return grids, of these shapes (z, y, x), of the phase shift and the astigmatism that are not as the files say.

    Notes
    -----
    Astigmatism errs in δ cos 2θ and δ sin 2θ, where δ is U − V and θ the angle of U.
    """
    found: dict[str, Any] = {}
    if params.phase_shift_error_degrees:
        error = drawn_grid("phase shift error", number, params, of_phase_shift, params.phase_shift_error_degrees)
        found["phase_shift_degrees"] = SplineGrid(values=params.phase_shift_degrees + error.values)
    if params.astigmatism_error_angstrom:
        _, difference, direction = _drawn_focus(number, params)
        errors = params.astigmatism_error_angstrom * keyed_random.normal(
            params.seed, "astigmatism error", number, size=(*of_astigmatism, 2)
        )
        double = math.radians(2 * direction)
        a, b = difference * math.cos(double) + errors[..., 0], difference * math.sin(double) + errors[..., 1]
        found["astigmatism_angstrom"] = grid_of(np.hypot(a, b))
        found["astigmatism_angle_degrees"] = grid_of(np.degrees(np.arctan2(b, a)) / 2)
    return found


def drawn_grid(
    purpose: str, number: int, params: SeriesSimulationParams, shape: tuple[int, int, int], rms: float, *, draw: int = 0
) -> SplineGrid:
    """Return a grid of normal values about 0, shape (z, y, x)."""
    return grid_of(rms * keyed_random.normal(params.seed, purpose, number, draw=draw, size=shape))


def grid_of(values: NDArray[np.float64]) -> SplineGrid:
    """Return a grid of these values, shape (z, y, x)."""
    return SplineGrid(values=torch.from_numpy(np.ascontiguousarray(values)))


def walk(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return random walks about their mean, shape (..., n, c), of n standard normal steps; 1 rms from end to end."""
    n = steps.shape[-2]
    if n == 1:
        return np.zeros_like(steps)
    steps = steps.copy()
    steps[..., 0, :] = 0.0
    path = np.cumsum(steps, axis=-2) / math.sqrt(n - 1)
    centred: NDArray[np.float64] = path - path.mean(axis=-2, keepdims=True)
    return centred


def _thrown(
    number: int, params: SeriesSimulationParams, diameters_angstrom: Sequence[float], counts: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Return places in the field, z from the middle of the ice, of each species."""
    field = np.array(params.field_angstrom)
    placed, widths = np.empty((0, 3)), np.empty(0)
    places = []
    for species, (diameter, count) in enumerate(zip(diameters_angstrom, counts, strict=True)):
        uid = number * _SPECIES_PER_SERIES + species
        tries = keyed_random.uniform(params.seed, "places", uid, size=(_TRIES_PER_PARTICLE * max(count, 1), 3))
        room = np.append(field - 2 * params.margin_angstrom, max(params.ice_thickness_angstrom - diameter, 0.0))
        start = np.array([params.margin_angstrom, params.margin_angstrom, -room[2] / 2])
        mine: list[NDArray[np.float64]] = []
        for candidate in start + tries * room:
            if len(mine) == count:
                break
            if (np.linalg.norm(placed - candidate, axis=1) >= (widths + diameter) / 2).all():
                placed, widths = np.concatenate([placed, candidate[None]]), np.append(widths, diameter)
                mine.append(candidate)
        if len(mine) < count or (count and room.min() < 0):
            raise InputError(
                f"The field of {field[0]:.0f} by {field[1]:.0f} Å must hold {count} particles {diameter:.0f} Å wide "
                f"beside those of other species; got room for {len(mine)}; lower --particles-per-series or raise "
                "--size or --ice-thickness."
            )
        places.append(np.array(mine).reshape(-1, 3))
    return places


def _with_errors(
    place: NDArray[np.float64], uids: NDArray[np.int64], params: SeriesSimulationParams, *, is_frame_series: bool
) -> SpeciesPoses:
    seed, n = params.seed, params.temporal_samples
    moves = params.drift_angstrom * walk(keyed_random.normal(seed, "drift", uids, size=(n, 3)))
    turns = np.radians(params.turning_degrees) * walk(keyed_random.normal(seed, "turning", uids, size=(n, 3)))
    offsets = keyed_random.normal(seed, "position error", uids, size=3)
    scale = np.full(3, params.position_error_angstrom)
    if is_frame_series:  # where z is a defocus, which neither drifts nor shares the error of positions
        moves[..., 2] = 0.0
        scale[2] = params.defocus_error_angstrom
    errors = np.radians(params.angle_error_degrees) * keyed_random.normal(seed, "angle error", uids, size=3)
    base = truth.views(seed, "views", uids, preference=params.preferred_orientation)
    turned = matrix_from_rotation_vector(torch.from_numpy(turns)) @ base[:, None]
    started = matrix_from_rotation_vector(torch.from_numpy(errors)) @ base
    return SpeciesPoses(
        position_angstrom=place[:, None] + moves,
        rotation=turned.numpy(),
        starting_position_angstrom=np.repeat((place + scale * offsets)[:, None], n, axis=1),
        starting_rotation=started[:, None].expand(-1, n, 3, 3).contiguous().numpy(),
        random_subset=1 + np.arange(len(place)) % 2,
    )


def _aberrations(
    names: Sequence[tuple[int, int]], purpose: str, params: SeriesSimulationParams, number: int
) -> NDArray[np.float64]:
    """Return coefficients of Zernike polynomials (n, m) that make pure powers, each 1 rad rms at the Nyquist frequency.

    All powers of the table are drawn that have their (n, m) among the names.
    """
    nyquist = 0.5 / params.pixel_size_angstrom
    draws = keyed_random.normal(params.seed, purpose, number, size=len(names))
    coefficients = np.zeros(len(names))
    for (n, m), draw in zip(names, draws, strict=True):
        lower, multiple = _PURE_POWERS.get((n, abs(m)), ({}, 1))
        for order, weight in lower.items():
            coefficients[names.index((order, m))] += weight * draw / (multiple * nyquist**n)
    return coefficients


def _drawn_focus(number: int, params: SeriesSimulationParams) -> tuple[float, float, float]:
    """Return what the files say: mean defocus in Å, U − V in Å and the angle of U in degrees."""
    drawn = truth.defocus(
        params.seed,
        np.array([number]),
        minimum_angstrom=params.min_defocus_angstrom,
        maximum_angstrom=params.max_defocus_angstrom,
        astigmatism_angstrom=params.astigmatism_angstrom,
    )
    u, v = float(drawn.u_angstrom[0]), float(drawn.v_angstrom[0])
    return (u + v) / 2, u - v, float(drawn.angle_degrees[0])
