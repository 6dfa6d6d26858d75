"""Where particles lie in the images of a series, at which depth, and how they are turned there."""

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.data.image_series import FrameSeries, ImageSeries, TiltSeries
from halfmap.errors import ShapeError
from halfmap.geometry.rotations import matrix_from_euler, matrix_from_rotation_vector
from halfmap.splines.grids import SplineGrid, values_over_images
from halfmap.splines.trajectories import path, path_of_rotations


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """What P particles look like in T images.

    Parameters
    ----------
    position_angstrom : (P, T, 2), from the centre of the image's corner pixel.
    depth_angstrom : (P, T), what the particle's height adds to the defocus.
    rotation : (P, T, 3, 3), from the frame of the particle to that of the image.
    """

    position_angstrom: Tensor
    depth_angstrom: Tensor
    rotation: Tensor


def views(series: ImageSeries, position_angstrom: Tensor, rotation: Tensor) -> Views:
    """Return where and how particles are seen in each image.

    Parameters
    ----------
    series : a `TiltSeries` or a `FrameSeries`.
    position_angstrom : shape (P, n, 3), at n temporal samples evenly spaced over dose
        In a tilt series from the corner of the volume. In a frame series (x, y) from the corner of the image, and in z
        what the particle adds to the defocus.
    rotation : shape (P, n, 3, 3), A of the particles at the same samples.

    Returns
    -------
    Views
        float64, differentiable in grids, positions and rotations.

    Raises
    ------
    ShapeError
        Positions and rotations do not belong together.

    Notes
    -----
    Tilt series: with V the volume's and I the image's size, c a position of the path, and M the rotation
    Rz(axis) Ry(−tilt − level y) Rx(level x), the place is (M (c − V/2 + volume warp(c/V, dose)))_xy + axis offset +
    I/2, less the movement there. Depth is the third component, negated where angles are inverted. Frame series: the
    place is c_xy less global, local and pyramid movement. Rotations are C M A with C = Rz Ry Rx of the stage angles at
    c (C A in frame series); stage angles do not move places. All as M's, but for paths of rotations
    (`path_of_rotations`).
    """
    if position_angstrom.dim() != 3 or rotation.shape != (*position_angstrom.shape, 3):
        raise ShapeError(
            "Particles must have positions (P, n, 3) and rotations (P, n, 3, 3); got shapes "
            f"{tuple(position_angstrom.shape)} and {tuple(rotation.shape)}."
        )
    place = path(position_angstrom, series.dose_time)
    projected = (projections(series) @ warped(series, place)[..., None])[..., 0]
    before = projected[..., :2] + middle_angstrom(series)
    return Views(
        position_angstrom=before - movement(series, before),
        depth_angstrom=projected[..., 2],
        rotation=view_turns(series, place) @ path_of_rotations(rotation, series.dose_time),
    )


def is_contained(series: ImageSeries, seen: Views, diameter_angstrom: float) -> Tensor:
    """Return whether particles of a diameter lie wholly inside the images, bool, (P, T)."""
    inside = torch.minimum(seen.position_angstrom, image_size(series) - seen.position_angstrom)
    return inside.amin(-1) >= diameter_angstrom / 2


def projections(series: ImageSeries) -> Tensor:
    """Return what takes warped places to (x, y, depth) in each image, float64, (T, 3, 3)."""
    matrices = tilt_matrices(series).clone()
    if isinstance(series, TiltSeries) and series.are_angles_inverted:
        matrices[:, 2] *= -1
    return matrices


def tilt_matrices(series: ImageSeries) -> Tensor:
    """Return the rotations from the frame of the volume to that of each tilt, float64, (T, 3, 3); none of frames."""
    if not isinstance(series, TiltSeries):
        return torch.eye(3, dtype=torch.float64).expand(len(series), 3, 3)
    tilt = torch.as_tensor(series.tilt_angle_degrees, dtype=torch.float64) + series.level_angle_y_degrees
    axis = torch.as_tensor(series.axis_angle_degrees, dtype=torch.float64)
    return matrix_from_euler(0.0, tilt, -axis) @ _about_axis(torch.tensor(series.level_angle_x_degrees), 0)


def middle_angstrom(series: ImageSeries) -> Tensor:
    """Return where warped places of (0, 0, 0) lie in each image without movement, (T, 2)."""
    if not isinstance(series, TiltSeries):
        return torch.zeros((len(series), 2), dtype=torch.float64)
    return torch.as_tensor(series.axis_offset_angstrom, dtype=torch.float64) + image_size(series) / 2


def image_size(series: ImageSeries) -> Tensor:
    """Return the size of the images in Å, (x, y)."""
    return torch.tensor(series.image_size_angstrom, dtype=torch.float64)


def volume_size(series: TiltSeries) -> Tensor:
    """Return the size of the volume in Å, (x, y, z)."""
    return torch.tensor(series.volume_size_angstrom, dtype=torch.float64)


def warped(series: ImageSeries, place_angstrom: Tensor) -> Tensor:
    """Return places from the volume's centre, volume warp added, (P, T, 3); places of frame series as they are."""
    if not isinstance(series, TiltSeries):
        return place_angstrom
    size = volume_size(series)
    grids = (series.volume_warp_x_angstrom, series.volume_warp_y_angstrom, series.volume_warp_z_angstrom)
    warp = [values_over_images(grid, place_angstrom / size, series.dose_time) for grid in grids]
    return place_angstrom - size / 2 + torch.stack(warp, dim=-1)


def movement(series: ImageSeries, place_angstrom: Tensor) -> Tensor:
    """Return what is subtracted from places in the images, (P, T, 2)."""
    where = place_angstrom / image_size(series)
    total = torch.zeros_like(where)
    for grids, times in movement_grids(series):
        total = total + torch.stack([values_over_images(grid, where, times) for grid in grids], dim=-1)
    return total


def movement_grids(series: ImageSeries) -> list[tuple[tuple[SplineGrid, SplineGrid], Tensor]]:
    """Return the grids of movement in x and y, each pair with where the images lie on their last axis."""
    if not isinstance(series, FrameSeries):
        return [((series.movement_x_angstrom, series.movement_y_angstrom), series.image_time)]
    of_movie = torch.arange(len(series), dtype=torch.float64) / max(max(series.n_frames_of_movie, len(series)) - 1, 1)
    pyramid = zip(series.pyramid_x_angstrom, series.pyramid_y_angstrom, strict=True)
    return [
        ((series.movement_x_angstrom, series.movement_y_angstrom), of_movie),
        ((series.local_movement_x_angstrom, series.local_movement_y_angstrom), of_movie),
        *((grids, series.image_time) for grids in pyramid),
    ]


def view_turns(series: ImageSeries, place_angstrom: Tensor) -> Tensor:
    """Return what turns particles into their views: stage angles after tilts, (P, T, 3, 3)."""
    x, y, z = _stage_turns(series, place_angstrom)
    return z @ y @ x @ tilt_matrices(series)


def stage_axes(series: ImageSeries, place_angstrom: Tensor) -> Tensor:
    """Return the axes, in the frame of the image, about which the stage angles x, y, z turn: columns, (P, T, 3, 3)."""
    _, y, z = _stage_turns(series, place_angstrom)
    z_axis = torch.zeros_like(z[..., 2])
    z_axis[..., 2] = 1.0
    return torch.stack([(z @ y)[..., 0], z[..., 1], z_axis], dim=-1)


def where_particles_are(series: ImageSeries, place_angstrom: Tensor) -> Tensor:
    """Return (x, y) of particles' own places, 0 to 1 over the volume or the frames, (P, T, 2)."""
    size = volume_size(series)[:2] if isinstance(series, TiltSeries) else image_size(series)
    return place_angstrom[..., :2] / size


def _stage_turns(series: ImageSeries, place_angstrom: Tensor) -> list[Tensor]:
    where = where_particles_are(series, place_angstrom)
    grids = (series.stage_angle_x_degrees, series.stage_angle_y_degrees, series.stage_angle_z_degrees)
    return [_about_axis(values_over_images(grid, where, series.image_time), axis) for axis, grid in enumerate(grids)]


def _about_axis(angle_degrees: Tensor, axis: int) -> Tensor:
    """Return right-handed rotations about x, y or z."""
    direction = torch.zeros(3, dtype=torch.float64)
    direction[axis] = 1.0
    return matrix_from_rotation_vector(torch.deg2rad(angle_degrees.to(torch.float64))[..., None] * direction)
