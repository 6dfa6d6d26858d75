"""Pictures over directions: limiting frequencies, a map filtered by them, and how often each view was seen."""

import math

import torch
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.geometry.rotations import matrix_from_euler, viewing_direction
from halfmap.geometry.view_counts import pixels_of_directions, view_counts
from halfmap.postprocessing.directional import DirectionalFsc

_N_TILT, _N_ROT = 180, 360  # one cell a degree
_REACH_DEGREES = 15.0  # about the distance of the cones' axes
_FLATTENED_FROM_ANGSTROM = 10.0
_EDGE_SHELLS = 1.0
_VIEW_ORDER = 3


def directions_of_table() -> Tensor:
    """Return the directions of the cells of a table of tilt and rot, unit vectors (x, y, z), shape (180, 360, 3)."""
    tilt = torch.arange(_N_TILT, dtype=torch.float64) + 0.5
    rot = torch.arange(_N_ROT, dtype=torch.float64) - 179.5
    tilts, rots = torch.meshgrid(tilt, rot, indexing="ij")
    return viewing_direction(matrix_from_euler(rots, tilts, torch.zeros_like(rots)))


def frequency_table(directional: DirectionalFsc, resolution_angstrom: float) -> Tensor:
    """Spread the limiting frequencies of cones over all directions.

    Parameters
    ----------
    directional : of the half-maps.
    resolution_angstrom : of the whole shells.

    Returns
    -------
    1/Å, float64, shape (180, 360), tilt and rot: the mean of the cones nearer than 15°, weighted by their nearness; all
    scaled so that the mean over the sphere is the limiting frequency of the whole shells. A cone without a
    crossing counts as those.
    """
    whole = 1 / resolution_angstrom
    found = torch.where(directional.resolution_angstrom.isfinite(), 1 / directional.resolution_angstrom, whole)
    least = math.cos(math.radians(_REACH_DEGREES))
    table = torch.empty((_N_TILT, _N_ROT), dtype=torch.float64)
    for row, cells in enumerate(directions_of_table()):  # all cells × all cones would be 100 MB
        weight = ((cells @ directional.directions.T).abs() - least).clamp_min(1e-6)
        table[row] = (weight @ found) / weight.sum(1)
    area = torch.sin(torch.deg2rad(torch.arange(_N_TILT, dtype=torch.float64) + 0.5))[:, None].expand_as(table)
    return table * (whole * area.sum() / (area * table).sum())


def anisotropic_map(volume: Volume, frequency: Tensor) -> Volume:
    """Low-pass a map in each direction by its own limit, its spectrum flattened beyond 10 Å.

    Parameters
    ----------
    frequency : of `frequency_table`.

    Returns
    -------
    Volume, float32.

    Notes
    -----
    The edge is a raised cosine of one shell. Flattened: amplitudes of shells beyond 10 Å are brought to their mean at
    10 Å, as in M.
    """
    grid = volume.grid
    transform = grid.rfft(volume.values.double())
    amplitude = shells.radial_mean(transform.abs(), grid)
    at_limit = min(len(amplitude) - 1, round(grid.side * grid.pixel_size_angstrom / _FLATTENED_FROM_ANGSTROM))
    gain = torch.ones_like(amplitude)
    gain[at_limit:] = amplitude[at_limit] / amplitude[at_limit:].clamp_min(1e-12 * float(amplitude.max()))
    multiplier = shells.spread(gain, grid)
    radius = shells.shell_radius(grid)
    limit = _of_coefficients(grid.frequencies(), frequency) * grid.side * grid.pixel_size_angstrom
    past = ((radius - limit) / _EDGE_SHELLS + 0.5).clamp(0, 1)
    multiplier = multiplier * (0.5 + 0.5 * torch.cos(math.pi * past))
    return Volume(values=grid.irfft(transform * multiplier).float(), grid=grid)


def view_table(rotation: Tensor, symmetry: str = "C1") -> Tensor:
    """Count from where particles were seen, each at all its equivalent views.

    Parameters
    ----------
    rotation : (N, 3, 3), A of each.

    Returns
    -------
    float64, shape (180, 360), tilt and rot: views in the HEALPix pixel (order 3) of each direction over their mean.
    """
    counts = view_counts(rotation, _VIEW_ORDER, symmetry).double()
    cells = pixels_of_directions(directions_of_table().flatten(0, 1), _VIEW_ORDER)
    return (counts / max(float(counts.mean()), 1e-12))[cells].reshape(_N_TILT, _N_ROT)


def _of_coefficients(frequencies: Tensor, table: Tensor) -> Tensor:
    """Return a table's values in the directions of frequencies (…, 3)."""
    x, y, z = frequencies.double().unbind(-1)
    length = frequencies.double().norm(dim=-1).clamp_min(1e-30)
    tilt = torch.rad2deg(torch.acos((z / length).clamp(-1, 1)))
    rot = torch.rad2deg(torch.atan2(y, x))
    row = tilt.floor().long().clamp(0, _N_TILT - 1)
    column = (rot + 180).floor().long().clamp(0, _N_ROT - 1)
    return table[row, column]
