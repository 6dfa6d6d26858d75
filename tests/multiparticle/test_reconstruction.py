"""Half-maps from tilt series: the truth without noise, and what must not change them."""

from dataclasses import replace
from functools import lru_cache, reduce
from operator import add

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.data.image_series import FrameSeries, SeriesOptics, SeriesWeights
from halfmap.data.image_source import ArraySource
from halfmap.errors import InconsistentDataError
from halfmap.fourier.shells import shell_index
from halfmap.geometry.shapes import soft_sphere
from halfmap.geometry.symmetric_volumes import rotate_volume
from halfmap.geometry.symmetry import operators
from halfmap.grid import ImageGrid
from halfmap.multiparticle.reconstruction import HalfMaps, SeriesSums, accumulate, combine
from halfmap.multiparticle.reconstruction_params import ReconstructionParams
from halfmap.splines.grids import SplineGrid
from support.series_scenes import (
    PIXEL_ANGSTROM,
    Scene,
    fsc_within,
    images,
    particles,
    scenes,
    species,
    tilt_series,
    volume,
)

RELIABLE_SHELLS = slice(3, 19)
"""From where the mean of a map, which is not determined, no longer tells inside a mask, to 0.9 of Nyquist."""


@lru_cache(maxsize=1)
def plain_scenes() -> list[Scene]:
    return scenes(2)


@lru_cache(maxsize=1)
def plain_mean() -> torch.Tensor:
    return mean(half_maps(plain_scenes()))


def summed(found: list[Scene], of=None, **params) -> SeriesSums:
    of = of or species()
    return reduce(
        add, [accumulate(one.series, one.source, one.particles, of, ReconstructionParams(**params)) for one in found]
    )


def half_maps(found: list[Scene], of=None, **params) -> HalfMaps:
    of = of or species()
    return combine(summed(found, of, **params), of, ReconstructionParams(**params))


def mean(maps: HalfMaps) -> torch.Tensor:
    return (maps.half1.values + maps.half2.values) / 2


@pytest.mark.parametrize(("padding", "n_series"), [(1, 2), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_perfect_poses_without_noise_give_the_truth(padding, n_series):
    found = plain_scenes() if n_series == 2 else scenes(n_series)
    maps = half_maps(found, padding=padding)
    assert fsc_within(mean(maps), found[0].truth.values, maps.half1.grid)[RELIABLE_SHELLS].min() > 0.99
    assert maps.fsc[RELIABLE_SHELLS].min() > 0.95  # of nine particles each


def test_grey_values_keep_their_proportions_in_every_shell():
    truth, grid = plain_scenes()[0].truth.values, plain_scenes()[0].truth.grid
    ratio = [
        float(torch.linalg.vector_norm(one) / torch.linalg.vector_norm(other))
        for one, other in zip(*(_shell_values(values, grid) for values in (plain_mean(), truth)), strict=True)
    ]
    assert max(ratio) / min(ratio) < 1.12  # linear interpolation of the numerators, at padding 1


def _shell_values(values, grid):
    transform = grid.rfft(values.double() * soft_sphere(grid, 48.0, 12.0))
    return [transform[shell_index(grid) == shell].abs() for shell in range(5, 17)]


def test_odd_aberrations_and_magnification_are_undone():
    odd = np.zeros(12)
    odd[2:6] = 120.0, -60.0, 200.0, 90.0  # radians Å³: over 0.3 rad at 8 Å
    optics = SeriesOptics(
        pixel_size_angstrom=PIXEL_ANGSTROM, odd_zernike=odd, magnification=np.array([[1.02, 0.01], [0.0, 0.98]])
    )
    found = scenes(2, optics=optics)
    truth, grid = found[0].truth.values, found[0].truth.grid
    assert fsc_within(mean(half_maps(found)), truth, grid)[RELIABLE_SHELLS].min() > 0.99
    plain = [replace(one, series=one.series.with_values(optics=plain_scenes()[0].series.optics)) for one in found]
    assert fsc_within(mean(half_maps(plain)), truth, grid)[RELIABLE_SHELLS].min() < 0.9


@pytest.mark.parametrize("inverted", [pytest.param(False, marks=pytest.mark.slow), True])
def test_slices_on_ewalds_sphere_give_the_truth_where_flat_ones_do_not(inverted):
    defoci = 400 + 100 * np.random.default_rng(3).normal(size=(15, 1, 1))
    found = scenes(
        2,
        curved=-1.0 if inverted else 1.0,
        are_angles_inverted=inverted,
        # electrons so slow that the sphere is strongly curved: a wavelength of 1.7 Å
        optics=SeriesOptics(pixel_size_angstrom=PIXEL_ANGSTROM, voltage_kv=0.05, spherical_aberration_mm=0.0),
        defocus_angstrom=SplineGrid(values=torch.from_numpy(defoci)),
        astigmatism_angstrom=SplineGrid.constant(0.0),
    )
    truth, grid = found[0].truth.values, found[0].truth.grid
    worst = {
        ewald: float(fsc_within(mean(half_maps(found, ewald=ewald)), truth, grid)[RELIABLE_SHELLS].min())
        for ewald in ("flat", "sphere", "reversed")
    }
    assert worst["sphere"] > 0.99
    assert worst["flat"] < 0.95
    assert worst["reversed"] < 0.5


def test_halves_on_a_flat_sphere_are_the_flat_reconstruction():
    found = plain_scenes()
    sphere = mean(half_maps(found, ewald="sphere"))
    # at 300 kV and 8 Å the sphere is nearly a plane: a fortieth of a shell from it
    assert fsc_within(plain_mean(), sphere, found[0].truth.grid)[RELIABLE_SHELLS].min() > 0.999


def test_turned_species_gives_the_turned_map():
    found = plain_scenes()
    turn = Rotation.from_rotvec([0.4, -0.7, 0.2]).as_matrix()
    turned = [
        replace(one, particles=one.particles.with_poses(one.particles.position_angstrom, one.particles.rotation @ turn))
        for one in found
    ]
    grid = found[0].truth.grid
    # the map at v is now the earlier one at turn v
    expected = rotate_volume(plain_mean(), grid, torch.from_numpy(turn))
    assert fsc_within(mean(half_maps(turned)), expected, grid)[RELIABLE_SHELLS].min() > 0.99


def test_shifted_species_gives_the_shifted_map():
    found = plain_scenes()
    shift = np.array([8.0, -4.0, 12.0])
    moved = [
        replace(
            one,
            particles=one.particles.with_poses(
                one.particles.position_angstrom + one.particles.rotation @ shift, one.particles.rotation
            ),
        )
        for one in found
    ]
    expected = plain_mean().roll((-3, 1, -2), dims=(0, 1, 2))  # voxels of 4 Å, (z, y, x)
    fsc = fsc_within(mean(half_maps(moved)), expected, found[0].truth.grid)
    assert fsc[RELIABLE_SHELLS].min() > 0.99


@pytest.mark.parametrize("symmetry", ["C3", pytest.param("D2", marks=pytest.mark.slow)])
def test_symmetry_gives_what_particles_expanded_by_it_give(symmetry):
    found = scenes(2, truth=volume(symmetry))
    operations = operators(symmetry).numpy()
    expanded = []
    for one in found:
        rows = np.repeat(np.arange(len(one.particles)), len(operations))
        turned = np.tile(operations, (len(one.particles), 1, 1))
        every = one.particles.take(rows)
        rotation = every.rotation @ turned[:, None]
        expanded.append(replace(one, particles=every.with_poses(every.position_angstrom, rotation)))
    by_sums, by_particles = mean(half_maps(found, species(symmetry=symmetry))), mean(half_maps(expanded))
    grid = found[0].truth.grid
    assert fsc_within(by_sums, by_particles, grid)[RELIABLE_SHELLS].min() > 0.99
    assert fsc_within(by_sums, found[0].truth.values, grid)[5:19].min() > 0.99  # its mean reaches further


def test_sums_over_series_are_the_same_in_any_order():
    found = plain_scenes()
    one, other = (combine(summed(some), species(), ReconstructionParams()) for some in (found, found[::-1]))
    assert torch.allclose(one.half1.values, other.half1.values, atol=1e-5 * float(one.half1.values.abs().max()))


def test_images_fade_with_dose_and_are_brought_back_to_full_height():
    """Weights say how much of the signal is left, so doubling all scales changes nothing."""
    found = plain_scenes()[:1]
    weights = SeriesWeights(series_scale=3.0, series_b_factor_angstrom2=-10.0)
    heavier = [replace(one, series=one.series.with_values(weights=weights)) for one in found]
    fsc = fsc_within(mean(half_maps(found)), mean(half_maps(heavier)), found[0].truth.grid)
    assert fsc[RELIABLE_SHELLS].min() > 0.999


def test_only_images_that_hold_a_particle_wholly_are_read_and_counted():
    (one,) = plain_scenes()[:1]
    used = one.series.is_used.copy()
    used[[0, 7]] = False
    series = one.series.with_values(is_used=used)
    position = one.particles.position_angstrom.copy()
    position[4] = (5.0, 500.0, 100.0)  # at the edge of the volume
    found = one.particles.with_poses(position, one.particles.rotation)
    read = []

    class Counting(ArraySource):
        def read(self, indices):
            read.extend(np.atleast_1d(indices).tolist())
            return super().read(indices)

    source = Counting(images=one.source.images, grid=one.source.grid)
    sums = accumulate(series, source, found, species(), ReconstructionParams())
    assert read == [t for t in range(15) if t not in (0, 7)]
    assert sums.n_outside <= 1
    assert sums.n_images[0] < 5 * 13  # the fifth is wholly inside few
    assert sums.n_images[1] == 4 * 13


def test_series_without_a_particle_inside_adds_nothing():
    (one,) = plain_scenes()[:1]
    nowhere = one.particles.with_poses(one.particles.position_angstrom - 5000.0, one.particles.rotation)
    sums = accumulate(one.series, one.source, nowhere, species(), ReconstructionParams())
    assert sums.n_outside == 9
    assert float(sums.halves[0].weight.abs().max()) == 0
    with pytest.raises(InconsistentDataError, match="got none in half-set 1"):
        combine(sums, species(), ReconstructionParams())


def test_source_of_another_series_is_refused():
    (one,) = plain_scenes()[:1]
    source = ArraySource(images=one.source.images[:3], grid=one.source.grid)
    with pytest.raises(InconsistentDataError, match="one image for each of its 15"):
        accumulate(one.series, source, one.particles, species(), ReconstructionParams())


def test_directions_that_are_hardly_seen_do_not_bring_noise_in():
    """Particles of one orientation, so that a wedge of each map holds noise alone."""
    found = scenes(2, noise=1.0, turned=False)
    raw, damped = (half_maps(found, damp_unseen_directions=damp) for damp in (False, True))
    truth, grid = found[0].truth.values, found[0].truth.grid
    against = [fsc_within(mean(maps), truth, grid)[12:20].mean() for maps in (raw, damped)]
    assert against[1] > against[0] + 0.03
    assert damped.fsc[8:18].min() > raw.fsc[8:18].min()
    height = [_shell_values(mean(maps), grid)[0].norm() for maps in (raw, damped)]
    assert float(height[1] / height[0]) == pytest.approx(1, abs=0.1)  # where signal prevails, nothing is filtered


def frame_series(n_frames: int = 4, **fields) -> FrameSeries:
    side = 256 * PIXEL_ANGSTROM
    given = {
        "name": "movie",
        "image_size_angstrom": (side, side),
        "dose_e_per_angstrom2": 10.0 * np.arange(n_frames),
        "is_used": np.ones(n_frames, dtype=bool),
        "optics": SeriesOptics(pixel_size_angstrom=PIXEL_ANGSTROM),
        "defocus_angstrom": SplineGrid.constant(20000.0),
    }
    return FrameSeries(**{**given, **fields})


def test_moving_bowing_frames_give_the_map_of_still_ones():
    generator = np.random.default_rng(0)

    def nodes(sigma, *shape):
        return SplineGrid(values=torch.from_numpy(sigma * generator.normal(size=shape)))

    still = frame_series()
    moving = frame_series(
        movement_x_angstrom=nodes(10.0, 4, 1, 1),
        local_movement_y_angstrom=nodes(4.0, 2, 2, 2),
        pyramid_x_angstrom=(nodes(3.0, 4, 2, 2),),
        pyramid_y_angstrom=(nodes(3.0, 4, 2, 2),),
        doming_angstrom=nodes(1000.0, 4, 3, 3),
    )
    found = particles(tilt_series())
    found = found.with_poses(found.position_angstrom * (1.0, 1.0, 5.0), found.rotation)  # defoci that differ by 200 Å
    truth, maps = volume(), []
    for series in (still, moving):
        source = ArraySource(images=images(series, found, truth), grid=ImageGrid.square(256, PIXEL_ANGSTROM))
        total = accumulate(series, source, found, species(), ReconstructionParams())
        maps.append(mean(combine(total, species(), ReconstructionParams())))
    # doming moves the zeros of the CTF, where nine still views see nothing
    assert fsc_within(*maps, truth.grid)[RELIABLE_SHELLS].min() > 0.98
