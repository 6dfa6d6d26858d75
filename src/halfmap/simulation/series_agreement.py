"""How well the metadata of a series and its particles' poses agree with the truth, by what images can tell."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from halfmap.data.image_series import ImageSeries
from halfmap.errors import ShapeError
from halfmap.geometry.symmetry import distance_degrees
from halfmap.imaging.deformation import Views, is_contained, views
from halfmap.imaging.series_transfer import ImageCtf, image_ctf
from halfmap.optics.aberrations import odd_phase
from halfmap.optics.ctf import phase_aberration

_RADII, _AZIMUTHS = 8, 24


@dataclass(frozen=True, kw_only=True)
class SeriesAgreement:
    """Root mean square differences over all views: of particles in the images that are used and hold them wholly.

    Parameters
    ----------
    n_views : over how many.
    angle_degrees : of orientations in the images, stage angles included.
    position_angstrom : of places in the images, along each axis: all warps, motion and poses together, and what of
        odd aberrations is a shift.
    defocus_angstrom : of the mean defocus, depth included.
    astigmatism_angstrom : of both components of U − V.
    phase_shift_degrees, spherical_aberration_mm : of the CTF.
    ctf_phase_rad : of γ as a whole, even aberrations included, over all frequencies up to a resolution.
    odd_phase_rad : of odd aberrations, what a shift can stand for left out, over the same frequencies.
    magnification_percent : of the elements of the magnification.
    """

    n_views: int
    angle_degrees: float
    position_angstrom: float
    defocus_angstrom: float
    astigmatism_angstrom: float
    phase_shift_degrees: float
    spherical_aberration_mm: float
    ctf_phase_rad: float
    odd_phase_rad: float
    magnification_percent: float


@dataclass(frozen=True, kw_only=True, eq=False)
class MapFrame:
    """How a map's frame lies in the true one: a reference point v of the map is Q v + t of the truth.

    Parameters
    ----------
    turn : Q, (3, 3).
    shift_angstrom : t, (3,).
    """

    turn: Tensor
    shift_angstrom: Tensor


def compare_series(
    true: ImageSeries,
    found: ImageSeries,
    true_poses: tuple[Tensor, Tensor],
    poses: tuple[Tensor, Tensor],
    *,
    diameter_angstrom: float,
    resolution_angstrom: float,
    symmetry: str = "C1",
    frame: MapFrame | None = None,
) -> SeriesAgreement:
    """Compare a series and the poses of one species with the truth.

    Parameters
    ----------
    true, found : the series.
    true_poses, poses : positions (P, n, 3) and rotations (P, n, 3, 3), the same particles in the same order; the
        numbers of temporal samples may differ.
    diameter_angstrom : of the species.
    resolution_angstrom : up to which phases are compared.
    symmetry : of the species; the nearest of equivalent orientations counts.
    frame : of the map that the poses belong to, where it is not the true one, of `frame_of_map`.

    Returns
    -------
    SeriesAgreement
        Free of what no image can tell: whether warp, stage or particle is to blame for a place or a view.

    Raises
    ------
    ShapeError
        The numbers of particles or images differ.
    """
    if len(true) != len(found) or true_poses[0].shape[0] != poses[0].shape[0]:
        raise ShapeError(
            "A series must be compared with the truth of as many images and particles; got "
            f"{len(found)} and {poses[0].shape[0]} for {len(true)} and {true_poses[0].shape[0]}."
        )
    before, after = views(true, *true_poses), views(found, *poses)
    if frame is not None:
        after = _in_true_frame(after, frame)
    counted = is_contained(true, before, diameter_angstrom) & torch.from_numpy(np.asarray(found.is_used))
    first, second = image_ctf(true, true_poses[0], before), image_ctf(found, poses[0], after)
    frequencies = _frequencies(resolution_angstrom)
    gamma = _gamma(found, second, frequencies) - _gamma(true, first, frequencies)
    odd_phase_difference, odd_shift = _without_shift(_odd(found, frequencies) - _odd(true, frequencies), frequencies)
    mean = _mean_defocus(second) - _mean_defocus(first)
    astigmatism = _astigmatism(second) - _astigmatism(first)
    return SeriesAgreement(
        n_views=int(counted.sum()),
        angle_degrees=_rms(distance_degrees(before.rotation[counted], after.rotation[counted], symmetry)),
        position_angstrom=_rms((after.position_angstrom + odd_shift - before.position_angstrom)[counted]),
        defocus_angstrom=_rms(mean[counted]),
        astigmatism_angstrom=_rms(astigmatism[counted]),
        phase_shift_degrees=_rms((second.phase_shift_degrees - first.phase_shift_degrees)[counted]),
        spherical_aberration_mm=_rms((second.spherical_aberration_mm - first.spherical_aberration_mm)[counted]),
        ctf_phase_rad=_rms(gamma[counted]),
        odd_phase_rad=_rms(odd_phase_difference),
        magnification_percent=100 * _rms(torch.from_numpy(found.optics.magnification - true.optics.magnification)),
    )


def frame_of_map(true_poses: tuple[Tensor, Tensor], poses: tuple[Tensor, Tensor]) -> MapFrame:
    """Return how the frame lies in which poses agree best with the true ones: of a map made from them, say.

    Parameters
    ----------
    true_poses, poses : as of `compare_series`; their first temporal samples count. All particles of a species
        together, without symmetry.

    Notes
    -----
    The turn is the projection of Σ Aᵀ B onto rotations, A the true ones and B the others; the shift is the mean of
    Aᵀ (p_B − p_A), which it is in the true frame.
    """
    a, b = true_poses[1][:, 0].double(), poses[1][:, 0].double()
    u, _, v = torch.linalg.svd((a.mT @ b).sum(0))
    sign = torch.diag(torch.tensor([1.0, 1.0, float(torch.sign(torch.linalg.det(u @ v)))], dtype=torch.float64))
    moved = (poses[0][:, 0] - true_poses[0][:, 0]).double()
    return MapFrame(turn=u @ sign @ v, shift_angstrom=(a.mT @ moved[..., None])[..., 0].mean(0))


def _in_true_frame(seen: Views, frame: MapFrame) -> Views:
    """Return views as they are of the true map: with A = B Qᵀ, and its origin at p − A t."""
    rotation = seen.rotation @ frame.turn.T
    moved = rotation @ frame.shift_angstrom
    return replace(
        seen,
        rotation=rotation,
        position_angstrom=seen.position_angstrom - moved[..., :2],
        depth_angstrom=seen.depth_angstrom - moved[..., 2],
    )


def _frequencies(resolution_angstrom: float) -> Tensor:
    """Return frequencies spread evenly over the half disc up to a resolution, (K, 2)."""
    radii = torch.sqrt((torch.arange(_RADII, dtype=torch.float64) + 0.5) / _RADII) / resolution_angstrom
    azimuths = math.pi * (torch.arange(_AZIMUTHS, dtype=torch.float64) + 0.5) / _AZIMUTHS
    directions = torch.stack([azimuths.cos(), azimuths.sin()], dim=-1)
    return (radii[:, None, None] * directions).reshape(-1, 2)


def _gamma(series: ImageSeries, table: ImageCtf, frequencies: Tensor) -> Tensor:
    return phase_aberration(
        frequencies,
        defocus_u_angstrom=table.defocus_u_angstrom,
        defocus_v_angstrom=table.defocus_v_angstrom,
        defocus_angle_degrees=table.defocus_angle_degrees,
        phase_shift_degrees=table.phase_shift_degrees,
        spherical_aberration_mm=table.spherical_aberration_mm,
        voltage_kv=series.optics.voltage_kv,
        amplitude_contrast=series.optics.amplitude_contrast,
        even_zernike=np.append(0.0, series.optics.even_zernike),
    )


def _odd(series: ImageSeries, frequencies: Tensor) -> Tensor:
    optics = series.optics
    return odd_phase(
        frequencies,
        odd_zernike=optics.odd_zernike,
        voltage_kv=optics.voltage_kv,
        spherical_aberration_mm=optics.spherical_aberration_mm,
    )


def _without_shift(phase: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a shift cannot stand for of a phase, and the shift of content that it can be taken for, in Å."""
    slope = torch.linalg.lstsq(frequencies, phase[:, None]).solution[:, 0]
    return phase - frequencies @ slope, -slope / (2 * math.pi)


def _mean_defocus(table: ImageCtf) -> Tensor:
    return (table.defocus_u_angstrom + table.defocus_v_angstrom) / 2


def _astigmatism(table: ImageCtf) -> Tensor:
    difference = table.defocus_u_angstrom - table.defocus_v_angstrom
    double = torch.deg2rad(2 * table.defocus_angle_degrees)
    return torch.stack([difference * double.cos(), difference * double.sin()], dim=-1)


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt()) if values.numel() else 0.0
