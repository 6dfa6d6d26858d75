"""Sums of a volume over rotations about its centre: cubic splines in space, linear in the transform."""

import numpy as np
import numpy.typing as npt
from numba import njit

from halfmap.kernels.threads import part_of, run_in_parts


def sum_rotated_spline(
    coefficients: npt.NDArray[np.float32],
    matrices: npt.NDArray[np.float64],
    side: int,
    *,
    n_threads: int = 1,
) -> npt.NDArray[np.float32]:
    """Sum a periodic cubic spline at rotated voxels.

    Parameters
    ----------
    coefficients : float32, shape (m, m, m)
        B-spline coefficients on a grid m / side times as fine, centre at m // 2.
    matrices : shape (g, 3, 3)
        Acting on (x, y, z).
    side : of the result.
    n_threads : threads to share the planes among.

    Returns
    -------
    float32, shape (side, side, side)
        Σ over matrices S of spline(S v) at each voxel v; S v outside the box counts as zero.
    """
    out = np.zeros((side, side, side), dtype=np.float32)
    run_in_parts(
        lambda part, n_parts: _sum_spline(out, coefficients, matrices, *_limits(side, part, n_parts)), n_threads
    )
    return out


def sum_rotated_half(
    values: npt.NDArray[np.float32], matrices: npt.NDArray[np.float64], *, n_threads: int = 1
) -> npt.NDArray[np.float32]:
    """Sum a centred half volume at rotated coefficients.

    Parameters
    ----------
    values : float32, shape (2R + 1, 2R + 1, R + 1, C)
        Channels of a half transform: (real, imaginary), with the weight as third or alone; origin at (R, R, 0).
    matrices : shape (g, 3, 3)
        Acting on (x, y, z).
    n_threads : threads to share the planes among.

    Returns
    -------
    float32, shape of ``values``
        Σ over matrices S of values(S k) by linear interpolation, for |k| ≤ R; zero beyond. Where S k
        lies in the half not stored its mate is taken, with the second channel's sign changed.
    """
    out = np.zeros_like(values)
    run_in_parts(
        lambda part, n_parts: _sum_half(out, values, matrices, *_limits(len(values), part, n_parts)), n_threads
    )
    return out


def _limits(n_planes: int, part: int, n_parts: int) -> tuple[int, int]:
    share = part_of(n_planes, part, n_parts)
    return share.start, share.stop


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _sum_spline(
    out: npt.NDArray[np.float32],
    coefficients: npt.NDArray[np.float32],
    matrices: npt.NDArray[np.float64],
    first: int,
    last: int,
) -> None:
    side, fine = out.shape[0], coefficients.shape[0]
    half, fine_half = side // 2, fine // 2
    scale = fine / side
    index = np.empty((3, 4), np.int64)
    weight = np.empty((3, 4), np.float32)
    for g in range(matrices.shape[0]):
        for z in range(first, last):
            for y in range(side):
                for x in range(side):
                    outside = False
                    for axis in range(3):
                        voxel = (
                            matrices[g, axis, 0] * (x - half)
                            + matrices[g, axis, 1] * (y - half)
                            + matrices[g, axis, 2] * (z - half)
                        )
                        outside = outside or abs(voxel) > side / 2 + 1e-9
                        place = fine_half + scale * voxel
                        low = np.floor(place)
                        t = np.float32(place - low)
                        u = np.float32(1) - t
                        weight[axis, 0] = u * u * u / np.float32(6)
                        weight[axis, 1] = np.float32(2) / np.float32(3) - t * t * (np.float32(1) - t / np.float32(2))
                        weight[axis, 2] = np.float32(2) / np.float32(3) - u * u * (np.float32(1) - u / np.float32(2))
                        weight[axis, 3] = t * t * t / np.float32(6)
                        for j in range(4):
                            index[axis, j] = (np.int64(low) - 1 + j) % fine
                    if outside:
                        continue
                    total = np.float32(0)
                    for j in range(4):
                        plane = np.float32(0)
                        for k in range(4):
                            row = np.float32(0)
                            for i in range(4):
                                row += weight[0, i] * coefficients[index[2, j], index[1, k], index[0, i]]
                            plane += weight[1, k] * row
                        total += weight[2, j] * plane
                    out[z, y, x] += total


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _sum_half(
    out: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    matrices: npt.NDArray[np.float64],
    first: int,
    last: int,
) -> None:
    radius, channels = values.shape[2] - 1, values.shape[3]
    one = np.float32(1)
    for g in range(matrices.shape[0]):
        for iz in range(first, last):
            for iy in range(2 * radius + 1):
                for ix in range(radius + 1):
                    z, y = iz - radius, iy - radius
                    if ix * ix + y * y + z * z > radius * radius:
                        continue
                    px = matrices[g, 0, 0] * ix + matrices[g, 0, 1] * y + matrices[g, 0, 2] * z
                    py = matrices[g, 1, 0] * ix + matrices[g, 1, 1] * y + matrices[g, 1, 2] * z
                    pz = matrices[g, 2, 0] * ix + matrices[g, 2, 1] * y + matrices[g, 2, 2] * z
                    sign = one
                    if px < 0:
                        px, py, pz, sign = -px, -py, -pz, -one
                    lx = min(int(np.floor(px)), radius - 1)
                    ly = min(max(int(np.floor(py)), -radius), radius - 1)
                    lz = min(max(int(np.floor(pz)), -radius), radius - 1)
                    fx, fy, fz = np.float32(px - lx), np.float32(py - ly), np.float32(pz - lz)
                    for c in range(channels):
                        total = np.float32(0)
                        for dz in range(2):
                            wz = fz if dz else one - fz
                            for dy in range(2):
                                w = wz * (fy if dy else one - fy)
                                at_z, at_y = lz + radius + dz, ly + radius + dy
                                total += w * (one - fx) * values[at_z, at_y, lx, c]
                                total += w * fx * values[at_z, at_y, lx + 1, c]
                        out[iz, iy, ix, c] += sign * total if c == 1 else total
