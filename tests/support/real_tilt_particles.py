"""40 real particles of tilt series (EMPIAR-10499, from WarpTools), their map, and how it agrees with a 70S ribosome."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halfmap.data.image_series import TiltSeries
from halfmap.data.volumes import Volume
from halfmap.fourier import shells, slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import rescale_to_pixel_size
from halfmap.geometry.shapes import soft_sphere
from halfmap.geometry.symmetric_volumes import rotate_volume
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import views
from halfmap.imaging.series_transfer import ctf_values, image_ctf, image_weights
from halfmap.io import mrc
from halfmap.io.relion_tomo import read_tomograms
from halfmap.io.relion_tomo_particles import read_tomo_particles, visible_tilts

FOLDER = "tilt/tomodrgn_EMPIAR-10499_warptools_4tomos"
STEM = "warptools_test_4-tomos_10-ptcls_box-32_angpix-12"
SIDE, PIXEL_ANGSTROM = 32, 12.0
GRID = ImageGrid.cubic(SIDE, PIXEL_ANGSTROM)
SHELLS = (2, 9)
"""That maps are compared with the model in: 192 to 48 Å."""

CHANGES = ("none", "tilt sign", "axis sign", "defocus hand", "CTF sign", "transposed rotations")
POSE_OF_MODEL = torch.tensor(
    [[0.8815, 0.2533, 0.3985], [-0.3327, 0.9320, 0.1436], [-0.3350, -0.2592, 0.9059]],
    dtype=torch.float64,
)
"""How the model is turned to lie on the particles' map, found by a search over all orientations."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RealSeries:
    """The particles of one tilt series."""

    series: TiltSeries
    position_angstrom: Tensor
    rotation: Tensor
    values: Tensor
    is_visible: Tensor


def band() -> FourierBand:
    return FourierBand(ImageGrid.square(SIDE, PIXEL_ANGSTROM))


def read(root: Path) -> list[RealSeries]:
    folder = root / FOLDER
    tomograms = read_tomograms(folder / f"{STEM}_tomograms.star")
    known = {one.name: one for one in tomograms.series}
    particles = read_tomo_particles(folder / f"{STEM}.star", known)
    found = []
    for series in tomograms.series:
        mine = particles.take(particles.source_name == f"{series.name}.tomostar")
        images = [np.array(mrc.map_data(folder / name), dtype=np.float32) for name in mine.further["rlnImageName"]]
        found.append(
            RealSeries(
                series=series,
                position_angstrom=torch.tensor(mine.position_angstrom),
                rotation=torch.tensor(mine.rotation),
                values=band().gather(band().grid.rfft(torch.from_numpy(np.stack(images)))),
                is_visible=torch.from_numpy(visible_tilts(mine)),
            )
        )
    return found


def changed(found: list[RealSeries], change: str) -> list[RealSeries]:
    """Return the particles under one convention turned round."""
    result = []
    for one in found:
        series, rotation, values = one.series, one.rotation, one.values
        if change == "tilt sign":
            series = series.with_values(
                tilt_angle_degrees=-series.tilt_angle_degrees, level_angle_y_degrees=-series.level_angle_y_degrees
            )
        elif change == "axis sign":
            series = series.with_values(axis_angle_degrees=-series.axis_angle_degrees)
        elif change == "defocus hand":
            series = series.with_values(are_angles_inverted=not series.are_angles_inverted)
        elif change == "CTF sign":
            values = -values
        elif change == "transposed rotations":
            rotation = rotation.mT.contiguous()
        result.append(replace(one, series=series, rotation=rotation, values=values))
    return result


def reconstruct(found: list[RealSeries]) -> Tensor:
    """Return the map, float32; images carry weight × CTF once."""
    padded = slices.PaddedGrid(GRID, padding=2)
    data, weight = torch.zeros(padded.shape, dtype=torch.complex64), torch.zeros(padded.shape)
    frequencies = band().frequencies
    for one in found:
        seen = views(one.series, one.position_angstrom, one.rotation)
        transfer = ctf_values(one.series, image_ctf(one.series, one.position_angstrom, seen), frequencies)
        transfer = transfer * image_weights(one.series, seen, frequencies)
        here = one.is_visible & torch.as_tensor(one.series.is_used)
        added = slices.insert(one.values[here], transfer[here].square(), seen.rotation[here], band(), padded)
        data, weight = data + added[0], weight + added[1]
    level = float(weight[weight > 0].mean())
    quotient = slices.PaddedTransform(values=data / (weight + 0.1 * level), grid=padded)
    return slices.to_reference(quotient)


def whitened(values: Tensor, radius_angstrom: float = 160.0) -> Tensor:
    """Return the transform inside the particle, each compared shell at the same power, others 0."""
    transform = GRID.rfft(values.double() * soft_sphere(GRID, radius_angstrom, 24.0))
    power = shells.radial_mean(transform.abs().square(), GRID)
    height = 1 / power.clamp(min=1e-300).sqrt()
    height[: SHELLS[0]] = 0
    height[SHELLS[1] :] = 0
    return transform * shells.spread(height, GRID)


def ribosome(root: Path, *, mirrored: bool = True) -> Volume:
    """The map of PDB 4V5A on the particles' grid, mirrored so that it has the hand of the particles' map.

    The hand of tilt series is that of their tables, and that of the map is not known; ``ribosome70s_65.mrc``, a real
    map, is its mirror image as well.
    """
    read = mrc.read_volume(root / "maps" / "ribosome70s_4v5a_96.mrc")
    values, grid = rescale_to_pixel_size(read.values, read.grid, PIXEL_ANGSTROM, SIDE)
    return Volume(values=values.flip(0) if mirrored else values, grid=grid)


def half_map_fsc(found: list[RealSeries], mask: Tensor | None = None) -> Tensor:
    """Return the FSC, inside a mask or a sphere around the particle, of maps of even and of odd particles."""
    inside = soft_sphere(GRID, 150.0, 24.0) if mask is None else mask
    first, second = (GRID.rfft(reconstruct(_every_other(found, start)).double() * inside) for start in (0, 1))
    return shells.fsc(first, second, GRID)


def _every_other(found: list[RealSeries], start: int) -> list[RealSeries]:
    return [
        replace(
            one,
            position_angstrom=one.position_angstrom[start::2],
            rotation=one.rotation[start::2],
            values=one.values[start::2],
            is_visible=one.is_visible[start::2],
        )
        for one in found
    ]


def best_agreement(found: Tensor, model: Volume, rotations: Tensor) -> tuple[float, int]:
    """Return the highest correlation over shifts and rotations of the model, and which rotation gives it."""
    target = whitened(found)
    norm = float(GRID.irfft(target.to(torch.complex128)).norm())
    best = (-1.0, -1)
    for number, rotation in enumerate(rotations):
        turned = whitened(rotate_volume(model.values, GRID, rotation))
        correlation = GRID.irfft(target * turned.conj()) * GRID.n_pixels
        value = float(correlation.max()) / (norm * float(GRID.irfft(turned).norm()))
        best = max(best, (value, number))
    return best
