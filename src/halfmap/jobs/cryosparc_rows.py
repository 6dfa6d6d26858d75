"""From which row cryoSPARC counted positions, told by the images themselves.

cryoSPARC gives a particle's place as a fraction of the micrograph's height, and programs disagree whether it counts
from the first or the last row that is stored. Particle images were cut from the micrograph, noise and all, so they
correlate with it at the right place and nowhere else.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError, InputError
from halfmap.io import images
from halfmap.io.mrc import StackSource

N_MICROGRAPHS = 3
N_PARTICLES = 8
"""Of each micrograph."""

_REACH_PIXEL = 2  # positions are rounded, and windows cut to even sides
_CERTAIN = 0.25
_TIMES_BETTER = 2.0


@dataclass(frozen=True, kw_only=True)
class RowsTold:
    """What images say about positions.

    Parameters
    ----------
    from_last_row : whether fractions count from the last stored row.
    is_mirrored : whether the particle images are upside down against the stored micrograph.
    correlation : mean absolute correlation with the micrograph, 0 to 1.
    """

    from_last_row: bool
    is_mirrored: bool
    correlation: float


def told_by_images(particles: ParticleSet, root: Path) -> RowsTold | None:
    """Find out from which row positions count, by comparing particles with their micrographs.

    Parameters
    ----------
    particles : with images, micrographs and positions; these as counted from the last row.
    root : the folder that names start from.

    Returns
    -------
    None where images or micrographs cannot be read, or tell nothing.
    """
    if not {"image_name", "micrograph_name", "position_pixel"} <= set(particles.columns):
        return None
    names = np.asarray(particles["micrograph_name"], dtype=str)
    scores: list[NDArray[np.float64]] = []
    for name in list(dict.fromkeys(names.tolist()))[:N_MICROGRAPHS]:
        rows = np.flatnonzero(names == name)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, N_PARTICLES).astype(np.int64))]
        try:
            micrograph = images.read_micrograph(root / name)
            source = StackSource(particles["image_name"][rows], root)
            cut = source.read(np.arange(len(rows)))
            size = _micrograph_pixel_size(particles, rows[0], root / name)
        except (FormatError, InputError):
            return None
        if size is None:
            return None
        for row, image in zip(rows.tolist(), cut, strict=True):
            scores += _scores(
                micrograph, particles["position_pixel"][row], image, source.grid.pixel_size_angstrom / size
            )
    if not scores:
        return None
    by_row = np.mean(scores, axis=0).reshape(2, 2)
    row = int(by_row.max(axis=1).argmax())
    upright, mirrored = by_row[row].tolist()
    if max(upright, mirrored) < _CERTAIN or max(upright, mirrored) < _TIMES_BETTER * by_row[1 - row].max():
        return None
    # Round particles look alike upside down, noise does not: only a clear difference counts.
    is_mirrored = mirrored > _TIMES_BETTER * upright
    return RowsTold(from_last_row=row == 0, is_mirrored=is_mirrored, correlation=max(upright, mirrored))


def _micrograph_pixel_size(particles: ParticleSet, row: int, path: Path) -> float | None:
    if "micrograph_pixel_size_angstrom" in particles.optics:
        return float(particles.take([row]).optics_values("micrograph_pixel_size_angstrom")[0])
    return images.shape_and_pixel_size(path)[1]


def _scores(
    micrograph: NDArray, position: NDArray[np.float64], image: NDArray, reduction: float
) -> list[NDArray[np.float64]]:
    """Return correlations at the place from the last row and from the first, upright and mirrored; none near edges."""
    box = image.shape[-1]
    side = 2 * round(box * reduction / 2)
    if side < box - 1:
        return []
    x = round(float(position[0]))
    found = []
    for y in (round(float(position[1])), round(len(micrograph) - float(position[1]))):
        top, left = y - side // 2, x - side // 2
        if top < 0 or left < 0 or top + side > micrograph.shape[0] or left + side > micrograph.shape[1]:
            return []
        window = _reduced(micrograph[top : top + side, left : left + side], box)
        found += [_correlation(window, image), _correlation(window, image[::-1])]
    return [np.array(found)]


def _reduced(window: NDArray, box: int) -> NDArray[np.float64]:
    """Return a window with ``box`` pixels a side, by cropping its transform."""
    side = len(window)
    values = np.fft.fftshift(np.fft.fft2(window - window.mean()))
    start = side // 2 - box // 2
    cropped = values[start : start + box, start : start + box] if side >= box else np.pad(values, (box - side) // 2)
    return np.fft.ifft2(np.fft.ifftshift(cropped)).real


def _correlation(window: NDArray, image: NDArray) -> float:
    """Return the largest absolute correlation over small shifts."""
    centred = image - image.mean()
    norm = np.sqrt((window**2).sum() * (centred**2).sum())
    if norm == 0:
        return 0.0
    products = np.fft.ifft2(np.fft.fft2(window) * np.conj(np.fft.fft2(centred))).real / norm
    near = np.r_[-_REACH_PIXEL : _REACH_PIXEL + 1]
    return float(np.abs(products[np.ix_(near, near)]).max())
