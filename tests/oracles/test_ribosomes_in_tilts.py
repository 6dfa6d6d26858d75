"""Ribosomes of EMPIAR-10499 at the poses that M found and WarpTools wrote: do our views of the tilts fit together?

Images of 40 particles, multiplied by the CTF already. Halves of them, reconstructed apart, agree where the geometry is
right; how a map would look need not be known.
"""

import numpy as np
import pytest
import torch

from halfmap.fourier import shells, slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import views
from halfmap.imaging.series_transfer import ctf_values, image_ctf, image_weights
from halfmap.io import mrc, relion_tomo
from halfmap.io.relion_tomo_particles import read_tomo_particles, visible_tilts
from support.shared_data import shared_data

pytestmark = pytest.mark.oracle

STEM = "warptools_test_4-tomos_10-ptcls_box-32_angpix-12"
IMAGES, VOLUME = ImageGrid.square(32, 12.0), ImageGrid.cubic(32, 12.0)
BAND = FourierBand(IMAGES, max_shell=12)
LOW_SHELLS = slice(6, 11)  # 64 to 38 Å


@pytest.fixture(scope="module")
def ribosomes():
    """Of each series its geometry and particles, which of their images exist, and those, (P, T, K)."""
    folder = shared_data("tilt/tomodrgn_EMPIAR-10499_warptools_4tomos")
    read = relion_tomo.read_tomograms(folder / f"{STEM}_tomograms.star")
    particles = read_tomo_particles(folder / f"{STEM}.star", {one.name: one for one in read.series})
    visible, found = visible_tilts(particles), []
    for series in read.series:
        rows = np.flatnonzero([name.startswith(series.name) for name in particles.source_name])
        stacks = [folder / particles.further["rlnImageName"][row] for row in rows]
        images = np.stack([np.array(mrc.map_data(path), dtype=np.float32) for path in stacks])
        seen = torch.from_numpy(visible[rows]) & torch.from_numpy(np.isfinite(images).all((2, 3)))
        values = BAND.gather(IMAGES.rfft(torch.nan_to_num(torch.from_numpy(images))))
        found.append((series, particles.take(rows), seen, values))
    return found


def agreement(ribosomes, changed=lambda series: series, turned=lambda rotation: rotation):
    """Mean FSC between 64 and 38 Å of maps from every other particle."""
    maps = []
    for half in (0, 1):
        data = weight = None
        for given, particles, seen, values in ribosomes:
            series = changed(given)
            rows = torch.arange(half, len(particles), 2)
            position = torch.from_numpy(particles.position_angstrom)[rows]
            view = views(series, position, turned(torch.from_numpy(particles.rotation)[rows]))
            weights = image_weights(series, view, BAND.frequencies)
            transfer = ctf_values(series, image_ctf(series, position, view), BAND.frequencies)
            which = seen[rows]
            scale = weights.expand_as(transfer)[which]
            sums = slices.insert(
                values[rows][which] * scale, transfer[which].square() * scale, view.rotation[which], BAND,
                slices.PaddedGrid(VOLUME),
            )  # fmt: skip
            data, weight = sums if data is None else (data + sums[0], weight + sums[1])
        padded = slices.PaddedTransform(values=data / (weight + 0.1 * weight.mean()), grid=slices.PaddedGrid(VOLUME))
        maps.append(VOLUME.rfft(slices.to_reference(padded) * soft_sphere(VOLUME, 150.0, 40.0)))
    return float(shells.fsc(*maps, VOLUME)[LOW_SHELLS].mean())


@pytest.fixture(scope="module")
def right(ribosomes):
    return agreement(ribosomes)


def test_halves_of_the_particles_agree(right):
    assert right > 0.25  # 0.315 when written; random orientations give 0 within 0.06


@pytest.mark.parametrize(
    ("wrong", "share"),
    [
        ({"changed": lambda series: series.with_values(tilt_angle_degrees=-series.tilt_angle_degrees)}, 0.4),
        ({"changed": lambda series: series.with_values(axis_angle_degrees=-series.axis_angle_degrees)}, 0.75),
        ({"turned": lambda rotation: rotation.mT}, 0.2),
    ],
    ids=["tilt-sign", "axis-sign", "euler-transpose"],
)
def test_geometry_of_another_sign_is_told_by_less_agreement(ribosomes, right, wrong, share):
    assert agreement(ribosomes, **wrong) < share * right
