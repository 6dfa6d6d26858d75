"""Particles of series cut out for other programs: images of each tilt with all their geometry, and tables for them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.image_series import ImageSeries, TiltSeries
from halfmap.data.image_source import ImageSource
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.data.population import Species, SpeciesParticles
from halfmap.fourier.resample import rescale_to_pixel_size
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import image_size, views
from halfmap.imaging.series_transfer import image_ctf, image_weights
from halfmap.multiparticle.export_params import ExportParams
from halfmap.multiparticle.particle_windows import (
    ParticleWindows,
    batch_bytes,
    in_images,
    largest_batch,
    particle_views,
    particle_windows,
)
from halfmap.splines.trajectories import path, path_of_rotations
from halfmap.tensors import Images

_S_OF_B_FACTOR = 0.1  # 1/Å, where the weight is read for B
_BYTES_PER_ROW = 600  # of views, CTFs, weights and columns of the table
_BYTES_PER_IMAGE_PIXEL = 40  # padded, transformed, filtered


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportedImages:
    """Images of particles in one image of a series.

    Parameters
    ----------
    image : number of the image in its series.
    rows : int64, (n,): which particles.
    images : float32, (n, y, x): particles bright and centred, in units of the image's standard deviation.
    """

    image: int
    rows: NDArray[np.int64]
    images: Images


def export_grid(species: Species, params: ExportParams) -> ImageGrid:
    """Return the grid of exported images."""
    pixel = params.image_pixel_size_angstrom or species.pixel_size_angstrom
    return ImageGrid.square(params.image_box_pixel or 2 * round(species.diameter_angstrom / pixel), pixel)


def exported_images(
    series: ImageSeries,
    source: ImageSource,
    particles: SpeciesParticles,
    species: Species,
    params: ExportParams,
) -> Iterator[ExportedImages]:
    """Cut particles out of the images of a series, one image at a time.

    Parameters
    ----------
    series, source, particles, species : as for `halfmap.multiparticle.reconstruction.accumulate`.
    params : pixel size and box may be any.

    Yields
    ------
    In the order of `image_table`, particles that lie wholly in the image.

    Notes
    -----
    Positions are those of the refined geometry, to a fraction of a pixel; odd aberrations are undone.
    """
    grid = export_grid(species, params)
    for cut in particle_windows(series, source, particles, species, 2 * grid.pixel_size_angstrom):
        values = cut.values * (cut.weight * cut.ctf) if params.premultiply_ctf else cut.values
        yield ExportedImages(image=cut.image, rows=cut.rows.numpy(), images=_resampled(values, cut, grid))


def image_table(
    series: ImageSeries, particles: SpeciesParticles, species: Species, params: ExportParams
) -> ParticleSet:
    """Return one row for each exported image, with its own pose and CTF.

    Parameters
    ----------
    series, particles, species, params : as for `exported_images`.

    Returns
    -------
    ParticleSet
        uid and random_subset of the particle, tilt_index, rotation, origin (0), CTF with what is left of the signal as
        scale and B-factor; in the optics table the magnification. Odd aberrations are undone in the images.

    Notes
    -----
    Where RELION magnifies, it does so for the CTF too, which M does not: defoci are told such that both agree. A
    B-factor that differs with direction, and an aberration constant that differs with place, are not told.
    """
    grid = export_grid(species, params)
    seen = particle_views(series, particles)
    contained = in_images(series, seen, species)
    image, row = torch.nonzero(contained.T).unbind(-1)
    table = image_ctf(series, torch.tensor(particles.position_angstrom), seen)
    scale, b_factor = _scale_and_b_factor(series, particles)
    optics = series.optics
    columns: dict[str, NDArray] = {
        "optics_group": np.array([1]),
        "voltage_kv": np.array([optics.voltage_kv]),
        "spherical_aberration_mm": np.array([optics.spherical_aberration_mm]),
        "amplitude_contrast": np.array([optics.amplitude_contrast]),
        "pixel_size_angstrom": np.array([grid.pixel_size_angstrom]),
        "micrograph_pixel_size_angstrom": np.array([optics.pixel_size_angstrom]),
        "image_size_pixel": np.array([grid.side]),
        "image_dimensionality": np.array([2]),
        "ctf_premultiplied": np.array([params.premultiply_ctf]),
    }
    if np.any(optics.even_zernike):
        columns["even_zernike"] = np.concatenate([[0.0], optics.even_zernike])[None]
    if not np.allclose(optics.magnification, np.eye(2)):
        columns["magnification_matrix"] = optics.magnification[None]
    defocus = _seen_through(
        optics.magnification,
        *(
            getattr(table, name)[row, image].numpy()
            for name in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_degrees")
        ),
    )
    return ParticleSet(
        columns={
            "uid": particles.uid[row.numpy()],
            "random_subset": particles.random_subset[row.numpy()],
            "tilt_index": image.numpy(),
            "micrograph_name": np.full(len(row), series.name, dtype=object),
            "rotation": seen.rotation[row, image].numpy(),
            "origin_angstrom": np.zeros((len(row), 2)),
            "defocus_u_angstrom": defocus[0],
            "defocus_v_angstrom": defocus[1],
            "defocus_angle_degrees": defocus[2],
            "phase_shift_degrees": table.phase_shift_degrees[row, image].numpy(),
            "ctf_b_factor_angstrom2": -b_factor[row, image].numpy(),
            "ctf_scale": scale[row, image].numpy(),
            "optics_group": np.ones(len(row), dtype=np.int64),
        },
        optics=OpticsGroups(columns=columns),
    )


def memory_bytes(
    series: ImageSeries, particles: SpeciesParticles, species: Species, params: ExportParams, image_grid: ImageGrid
) -> int:
    """Return the most memory that cutting and tabulating the images of a series takes, in bytes.

    Parameters
    ----------
    series, particles, species, params : as for `exported_images`.
    image_grid : of the series' images.
    """
    grid = export_grid(species, params)
    resolution = 2 * grid.pixel_size_angstrom
    n, window = largest_batch(series, particles, species, image_grid, resolution)
    before, after = window.grid.side, grid.side
    # windows in space, resampled along one axis, then along both and copied
    resampled = 4 * n * (before**2 + 2 * before * after + 3 * after**2)
    table = _BYTES_PER_ROW * len(particles) * len(series)
    batch = batch_bytes(series, particles, species, image_grid, resolution)
    return batch + resampled + table + _BYTES_PER_IMAGE_PIXEL * image_grid.n_pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class RigidGeometry:
    """A tilt series and its particles as tables can tell them that know of no deformation.

    Parameters
    ----------
    rotation : float64, (T, 3, 3): from the tomogram to each tilt, stage angles of its middle included.
    shift_angstrom : float64, (T, 2): from the image's centre to where the middle of the tomogram is seen.
    particles : one pose each, at one dose, placed where the rigid series shows them nearest to where they are seen.
    residual_angstrom : float64, (N,): rms over used tilts of what is left between both.
    """

    rotation: NDArray[np.float64]
    shift_angstrom: NDArray[np.float64]
    particles: SpeciesParticles
    residual_angstrom: NDArray[np.float64]


def rigid_geometry(series: TiltSeries, particles: SpeciesParticles, params: ExportParams) -> RigidGeometry:
    """Return series and particles for tables of RELION 5, which turn places as they turn views.

    Parameters
    ----------
    series, particles : refined.
    params : for the dose of poses.

    Notes
    -----
    Exported images need no more: they are centred one by one. A particle's place is the least-squares solution over
    all used tilts; what is known of others may be far off.
    """
    middle = torch.tensor(series.volume_size_angstrom, dtype=torch.float64)[None, None] / 2
    upright = torch.eye(3, dtype=torch.float64)[None, None]
    centre = views(series, middle, upright)
    shift = centre.position_angstrom[0] - image_size(series) / 2
    rotation = centre.rotation[0]
    posed = particles_at_dose(series, particles, params.pose_dose_e_per_angstrom2)
    wanted = particle_views(series, particles).position_angstrom - centre.position_angstrom
    used = torch.as_tensor(series.is_used, dtype=torch.bool)
    flat, wanted = rotation[used, :2], wanted[:, used]
    # Σ over tilts of |M p − wanted|² is least where Σ MᵀM p = Σ Mᵀ wanted
    normal = torch.einsum("tij,tik->jk", flat, flat)
    right = torch.einsum("tij,pti->jp", flat, wanted)
    place = torch.linalg.lstsq(normal, right).solution.T
    left = torch.einsum("tij,pj->pti", flat, place) - wanted
    return RigidGeometry(
        rotation=rotation.numpy(),
        shift_angstrom=shift.numpy(),
        particles=posed.with_poses((place[:, None] + middle).numpy(), posed.rotation),
        residual_angstrom=left.square().sum(-1).mean(-1).sqrt().numpy(),
    )


def particles_at_dose(
    series: ImageSeries, particles: SpeciesParticles, dose_e_per_angstrom2: float = -1.0
) -> SpeciesParticles:
    """Return particles with the one pose that they have at a dose; -1 for the mean over used images.

    Beyond the series' doses it is that of its nearest end.
    """
    doses = series.dose_e_per_angstrom2
    dose = dose_e_per_angstrom2 if dose_e_per_angstrom2 >= 0 else float(doses[series.is_used].mean())
    first, last = float(doses.min()), float(doses.max())
    at = np.clip((dose - first) / (last - first), 0, 1) if last > first else 0.0
    time = torch.tensor([at], dtype=torch.float64)
    position = path(torch.tensor(particles.position_angstrom), time)
    rotation = path_of_rotations(torch.tensor(particles.rotation), time)
    return particles.with_poses(position.numpy(), rotation.numpy())


def _resampled(values: Tensor, cut: ParticleWindows, grid: ImageGrid) -> Images:
    window = cut.window
    images = window.grid.irfft(window.band.scatter(values))
    resampled, _ = rescale_to_pixel_size(images, window.grid, grid.pixel_size_angstrom, grid.side)
    return resampled


def _scale_and_b_factor(series: ImageSeries, particles: SpeciesParticles) -> tuple[Tensor, Tensor]:
    """Return scale and B in Å², both (P, T), of the weights, the mean over directions."""
    seen = particle_views(series, particles)
    s = torch.tensor([[0.0, 0.0], [_S_OF_B_FACTOR, 0.0], [0.0, _S_OF_B_FACTOR]], dtype=torch.float64)
    weight = image_weights(series, seen, s, of_whole_series=True).double().expand(len(particles), -1, -1)
    fading = (weight[..., 1:] / weight[..., :1]).log().mean(-1)
    return weight[..., 0], 4 * fading / _S_OF_B_FACTOR**2


def _seen_through(
    magnification: NDArray[np.float64],
    u: NDArray[np.float64],
    v: NDArray[np.float64],
    angle_degrees: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the defoci that at magnified frequencies M s are those at s."""
    axis = 2 * np.deg2rad(angle_degrees)
    mean, a, b = (u + v) / 2, (u - v) / 2 * np.cos(axis), (u - v) / 2 * np.sin(axis)
    forms = np.stack([np.stack([mean + a, b], -1), np.stack([b, mean - a], -1)], -2)
    inverse = np.linalg.inv(magnification)
    forms = inverse.T @ forms @ inverse
    mean, a, b = (forms[:, 0, 0] + forms[:, 1, 1]) / 2, (forms[:, 0, 0] - forms[:, 1, 1]) / 2, forms[:, 0, 1]
    half_difference = np.hypot(a, b)
    return mean + half_difference, mean - half_difference, np.rad2deg(np.arctan2(b, a)) / 2
