"""Sub-tomograms: what the images of one particle say of it in space, before it is turned."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.image_series import ImageSeries
from halfmap.data.image_source import ImageSource
from halfmap.data.population import Species, SpeciesParticles
from halfmap.data.volumes import Volume
from halfmap.fourier import slices
from halfmap.fourier.slices import PaddedGrid, PaddedTransform
from halfmap.grid import ImageGrid
from halfmap.multiparticle.export import export_grid
from halfmap.multiparticle.export_params import ExportParams
from halfmap.multiparticle.particle_windows import particle_windows

_BYTES_PER_VOXEL = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class SubTomogram:
    """One particle, in the orientation of its tomogram.

    Parameters
    ----------
    row : of the particle.
    data : Σ w C X over its tilts, in space.
    weight : float32, shape ``data.grid.rfft_shape``: Σ w² C², in the order of a half transform.
    """

    row: int
    data: Volume
    weight: Tensor


def sub_tomograms(
    series: ImageSeries,
    source: ImageSource,
    particles: SpeciesParticles,
    species: Species,
    params: ExportParams,
    *,
    memory_bytes: float,
) -> Iterator[SubTomogram]:
    """Back-project each particle by itself.

    Parameters
    ----------
    series, source, particles, species : as for `halfmap.multiparticle.reconstruction.accumulate`.
    params : pixel size and box may be any.
    memory_bytes : how much sums may take; images are read anew for each set of particles that fits.

    Yields
    ------
    Those particles that some image holds. Images count alike, each in units of its standard deviation.

    Notes
    -----
    The mean over particles of data turned by their poses, divided by that of weights turned likewise, is the map.
    """
    grid = ImageGrid.cubic(export_grid(species, params).side, export_grid(species, params).pixel_size_angstrom)
    at_once = max(1, int(memory_bytes // (_BYTES_PER_VOXEL * grid.n_pixels)))
    for start in range(0, len(particles), at_once):
        rows = np.arange(start, min(start + at_once, len(particles)))
        yield from _of_rows(series, source, particles, species, grid, rows)


def _of_rows(
    series: ImageSeries,
    source: ImageSource,
    particles: SpeciesParticles,
    species: Species,
    grid: ImageGrid,
    rows: NDArray[np.int64],
) -> Iterator[SubTomogram]:
    padded = PaddedGrid(grid, padding=1)
    mine = particles.take(rows)
    upright = mine.with_poses(mine.position_angstrom, np.broadcast_to(np.eye(3), mine.rotation.shape).copy())
    data = torch.zeros((len(rows), *padded.shape), dtype=torch.complex64)
    weight = torch.zeros((len(rows), *padded.shape))
    for cut in particle_windows(series, source, upright, species, 2 * grid.pixel_size_angstrom):
        transfer = cut.weight * cut.ctf
        band = cut.window.band
        values = transfer * cut.values / padded.field_scale(band) ** 2  # insertion multiplies by it again
        for place, row in enumerate(cut.rows.tolist()):
            one, its_weight = slices.insert(
                values[place, None],
                transfer[place, None].square(),
                cut.rotation[place, None],
                band,
                padded,
            )
            data[row] += one
            weight[row] += its_weight
    for place, row in enumerate(rows.tolist()):
        if bool(weight[place].any()):
            volume = slices.to_reference(PaddedTransform(values=data[place], grid=padded))
            yield SubTomogram(
                row=row, data=Volume(values=volume, grid=grid), weight=_half_transform(weight[place], padded)
            )


def _half_transform(values: Tensor, padded: PaddedGrid) -> Tensor:
    """Bring a stored half volume, DC in its middle, to the order of a half transform."""
    side = padded.grid.side
    frequencies = torch.fft.fftfreq(side, d=1 / side).round().long() + padded.radius
    return values[frequencies.clamp(0, 2 * padded.radius)][:, frequencies.clamp(0, 2 * padded.radius)][
        :, :, : side // 2 + 1
    ].contiguous()
