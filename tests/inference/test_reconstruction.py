"""Volumes from sums of slices: their scale, symmetry, noise, prior, and what halves share."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.compute.allocator import give_back
from halfmap.fourier import shells, slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.slices import PaddedGrid
from halfmap.geometry import symmetry as groups
from halfmap.geometry.rotations import matrix_from_euler, random_rotations
from halfmap.grid import ImageGrid
from halfmap.imaging.back_projection import back_project
from halfmap.imaging.image_model import contrast_transfer
from halfmap.imaging.projection import project
from halfmap.inference.maximisation import FIRST_PRIOR_SHELL
from halfmap.inference.reconstruction import VOLUME_BYTES, SliceAccumulator, join_low_shells
from support.model_images import particles_of
from support.volume_images import volumes

PIXEL, N_VIEWS = 4.0, 1500
CLEAR_REFS = Path("/proc/self/clear_refs")


def cubic(side: int) -> ImageGrid:
    return ImageGrid.cubic(side, PIXEL)


def radii(grid: PaddedGrid) -> Tensor:
    """Return the wave number of each stored coefficient of the padded volume."""
    axis = torch.arange(-grid.radius, grid.radius + 1, dtype=torch.float64).square()
    return (axis[:, None, None] + axis[:, None] + axis[grid.radius :]).sqrt()


def some_transfer(n: int, band: FourierBand) -> Tensor:
    return contrast_transfer(particles_of(n, band.grid), band.frequencies)


def accumulated(
    values: Tensor,
    rotations: Tensor,
    band: FourierBand,
    *,
    padding: int = 2,
    transfer: Tensor | None = None,
    variance: float = 1.0,
) -> SliceAccumulator:
    grid = PaddedGrid(cubic(band.grid.side), padding=padding)
    data, weight = back_project(values, rotations, band, grid, transfer=transfer, noise_variance=torch.tensor(variance))
    return SliceAccumulator(data=data, weight=weight, grid=grid)


@cache
def of_projections(side: int, padding: int) -> tuple[Tensor, SliceAccumulator]:
    """Return a map, and its noise-free projections with CTF summed at random poses."""
    true = volumes(1, side, PIXEL, radius_angstrom=0.4 * side * PIXEL, blob_angstrom=3.0)[0]
    band = FourierBand(ImageGrid.square(side, PIXEL))
    rotations = random_rotations(1, "views", np.arange(N_VIEWS))
    transfer = some_transfer(N_VIEWS, band)
    values = project(slices.prepare(true, cubic(side), padding=padding), rotations, band, transfer=transfer)
    return true, accumulated(values, rotations, band, padding=padding, transfer=transfer, variance=0.3)


@pytest.mark.parametrize(("side", "padding"), [(32, 2), (33, 2), (32, 1)])
def test_clean_projections_give_the_map_back(side: int, padding: int) -> None:
    true, sums = of_projections(side, padding)
    grid = cubic(side)
    found, wanted = grid.rfft(sums.volume().double()), grid.rfft(true.double())
    curve = shells.fsc(found, wanted, grid)
    last = side // 2 - 1
    # without padding slices are interpolated coarsely, which is felt where the whole map is of their size
    assert float(curve[1 if padding == 2 else 3 : last].min()) > (0.99 if padding == 2 else 0.985)
    scale = shells.radial_mean((found * wanted.conj()).real, grid) / shells.power_spectrum(wanted, grid)
    assert np.abs(scale[1:last].numpy() - 1).max() < (0.02 if padding == 2 else 0.08)


def test_a_map_and_its_mirror_image_are_told_apart() -> None:
    """The test above would not see a map reconstructed from the opposite directions."""
    true, sums = of_projections(32, 2)
    grid = cubic(32)
    mirrored = torch.roll(true.flip(0), 1, 0)
    curve = shells.fsc(grid.rfft(sums.volume().double()), grid.rfft(mirrored.double()), grid)
    assert float(curve[3:12].max()) < 0.9


@pytest.mark.parametrize("symmetry", ["D2", "C4", "O"])
def test_views_of_an_asymmetric_unit_give_what_those_of_all_units_give(symmetry: str) -> None:
    """Groups whose rotations take the lattice to itself need no interpolation: the sums are the same."""
    true = volumes(1, 24, PIXEL, symmetry=symmetry)[0]
    band = FourierBand(ImageGrid.square(24, PIXEL))
    padded = slices.prepare(true, cubic(24))
    one = groups.reduce(random_rotations(2, "unit", np.arange(60)), symmetry)
    every = (one[:, None] @ groups.operators(symmetry)).flatten(0, 1)
    few = accumulated(project(padded, one, band), one, band).symmetrised(symmetry)
    # each image of the unit, seen once more from every other one
    copies = project(padded, one, band).repeat_interleave(groups.order(symmetry), dim=0)
    many = accumulated(copies, every, band)
    # sums over a group end at the sphere, what single slices leave just beyond it is not looked at
    inside = radii(few.grid) <= few.grid.radius
    for a, b in ((few.data, many.data), (few.weight, many.weight)):
        assert float((a - b)[inside].abs().max()) < 1e-5 * float(b.abs().max())  # single precision


@pytest.mark.parametrize("symmetry", ["D7", "T", "I1"])
def test_symmetrised_sums_of_groups_off_the_lattice_give_the_same_map(symmetry: str) -> None:
    true = volumes(1, 32, PIXEL, symmetry=symmetry, radius_angstrom=44, blob_angstrom=3.0)[0]
    band = FourierBand(ImageGrid.square(32, PIXEL))
    padded, grid = slices.prepare(true, cubic(32)), cubic(32)
    n = 3000 // groups.order(symmetry)
    one = groups.reduce(random_rotations(2, "unit", np.arange(n)), symmetry)
    every = (one[:, None] @ groups.operators(symmetry)).flatten(0, 1)
    few = accumulated(project(padded, one, band), one, band).symmetrised(symmetry)
    many = accumulated(project(padded, every, band), every, band)
    assert float(few.weight.sum()) == pytest.approx(float(many.weight.sum()), rel=0.01)
    transforms = [grid.rfft(of.volume().double()) for of in (few, many)]
    assert float(shells.fsc(*transforms, grid)[1:14].min()) > 0.99
    # sums are interpolated a second time, which blurs the map by another sinc² towards the edge of the box
    norms = [float(shells.radial_sum(one.abs().square(), grid)[1:14].sum()) for one in transforms]
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="the system does not tell how much memory was held at most")
def test_a_map_is_reconstructed_in_the_memory_that_is_told() -> None:
    grid = PaddedGrid(cubic(64))
    weight = (1 + radii(grid)).float()
    sums = SliceAccumulator(data=torch.complex(weight, weight), weight=weight, grid=grid)
    give_back()
    before = held_bytes("VmRSS")
    CLEAR_REFS.write_text("5")  # what was held at most begins anew
    sums.volume(torch.full((33,), 0.5), keeps_height=True)
    assert held_bytes("VmHWM") - before < VOLUME_BYTES * weight.numel()


def held_bytes(label: str) -> int:
    """Return what this process holds, or held at most, as the system tells."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(label))


@pytest.mark.parametrize("with_ctf", [False, True])
def test_error_variance_is_that_of_volumes_of_pure_noise(with_ctf: bool) -> None:
    side, n, sigma2 = 24, 8000, 0.37
    grid = cubic(side)
    band = FourierBand(ImageGrid.square(side, PIXEL))
    rotations = random_rotations(4, "noise", np.arange(n))
    transfer = None
    if with_ctf:  # at 3 Å a pixel, so that the zeros of different images lie anywhere
        fine = FourierBand(ImageGrid.square(side, 3.0))
        particles = particles_of(n, fine.grid, defocus_angstrom=(10_000.0, 40_000.0))
        transfer = contrast_transfer(particles, fine.frequencies)
    measured = torch.zeros(shells.n_shells(grid), dtype=torch.float64)
    n_draws = 3
    for draw in range(n_draws):
        parts = keyed_random.normal(draw + 1, "pure noise", np.arange(n), size=(len(band), 2))
        values = torch.view_as_complex(torch.from_numpy(parts * sigma2**0.5)).to(torch.complex64)
        sums = accumulated(values, rotations, band, transfer=transfer, variance=sigma2)
        measured += 0.5 * shells.power_spectrum(grid.rfft(sums.volume().double()), grid) / n_draws
    # chance leaves weights uneven by a seventh here, and 1 / mean weight is less than the mean of 1 / weight; of
    # shell s 4π s² real numbers are free, in three draws: 5 % at shell 5
    ratio = (sums.error_variance() / measured)[5 : side // 2 - 1]
    np.testing.assert_allclose(ratio, 1.0, atol=0.15)
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.1)


def uniform(padding: int = 2, weight: float = 3.0) -> tuple[Tensor, SliceAccumulator]:
    """Return a map, and its transform seen with one weight everywhere."""
    true = volumes(1, 32, PIXEL, radius_angstrom=44, blob_angstrom=3.0)[0]
    padded = slices.prepare(true, cubic(32), padding=padding)
    weights = torch.full(padded.values.shape, weight)
    return true, SliceAccumulator(data=padded.values * weight, weight=weights, grid=padded.grid)


def shell_norms(volume: Tensor) -> Tensor:
    grid = cubic(volume.shape[0])
    return shells.radial_sum(grid.rfft(volume.double()).abs().square(), grid).sqrt()


def test_a_perfect_fsc_leaves_the_plain_volume() -> None:
    _, sums = of_projections(32, 2)
    plain, filtered = sums.volume(), sums.volume(torch.ones(17, dtype=torch.float64))
    # an FSC of 1 counts as 0.999; where weights are a tenth of their mean that is a hundredth
    assert float((filtered - plain).norm() / plain.norm()) < 5e-3
    assert not torch.equal(filtered, plain)


@pytest.mark.parametrize("strength", [1.0, 4.0])
@pytest.mark.parametrize("fsc", [0.9, 0.5, 0.143])
def test_an_fsc_damps_shells_as_a_wiener_filter_does(fsc: float, strength: float) -> None:
    _, sums = uniform()
    curve = torch.full((17,), fsc, dtype=torch.float64)
    factor = (shell_norms(sums.volume(curve, strength)) / shell_norms(sums.volume()))[:15]
    ratio = strength * fsc / (1 - fsc)
    # some of the undamped shells' power crosses into those beside them
    np.testing.assert_allclose(factor[FIRST_PRIOR_SHELL + 2 :], ratio / (1 + ratio), atol=0.01)
    np.testing.assert_allclose(factor[1 : FIRST_PRIOR_SHELL - 2], 1.0, atol=0.01)


def test_shells_without_a_known_fsc_are_next_to_nothing() -> None:
    _, sums = uniform()
    curve = torch.ones(17, dtype=torch.float64)
    curve[9:] = torch.nan
    curve[12:] = -0.3
    factor = (shell_norms(sums.volume(curve)) / shell_norms(sums.volume()))[:16]
    assert float(factor[11:15].max()) < 0.06  # what crosses from shells with signal
    np.testing.assert_allclose(factor[1:7], 1.0, rtol=0.01)


def test_images_that_barely_reach_a_coefficient_do_not_fill_it_with_their_noise() -> None:
    """Halves of a few noisy views agree better than with data divided by their own weights alone, as noise matters."""
    side = 32
    band = FourierBand(ImageGrid.square(side, PIXEL))
    padded = slices.prepare(volumes(1, side, PIXEL)[0], cubic(side))
    plain, divided = [], []
    for half in (1, 2):
        rotations, transfer = random_rotations(half, "few views", np.arange(100)), some_transfer(100, band)
        values = project(padded, rotations, band, transfer=transfer)
        parts = keyed_random.normal(half, "their noise", np.arange(100), size=(len(band), 2))
        spread = 0.2 * float(values.abs().square().mean().sqrt())
        noise = torch.view_as_complex(torch.from_numpy(spread * parts)).to(torch.complex64)
        sums = accumulated(values + noise, rotations, band, transfer=transfer)
        plain.append(cubic(side).rfft(sums.volume().double()))
        least = 1e-3 * float(sums.weight.mean())
        means = torch.where(sums.weight > least, sums.data / sums.weight.clamp(min=least), torch.zeros_like(sums.data))
        own = SliceAccumulator(data=means, weight=torch.ones_like(sums.weight), grid=sums.grid)
        divided.append(cubic(side).rfft(own.volume().double()))
    better, worse = (shells.fsc(first, second, cubic(side))[5:12] for first, second in (plain, divided))
    assert bool((better - worse)[(worse > 0.05) & (worse < 0.8)].min() > 0.03), (better, worse)
    assert float((worse - better).max()) < 0.02  # the price where noise is next to nothing


def test_the_prior_is_measured_by_the_mean_weight_of_a_shell() -> None:
    """Where weights differ, those of little weight are damped more."""
    _, sums = uniform()
    weight = sums.weight.clone()
    R = sums.grid.radius
    few = torch.arange(R + 1) < 12  # up to kx = 5.5 of the map
    weight[:, :, few] *= 0.1
    uneven = SliceAccumulator(data=sums.data / sums.weight * weight, weight=weight, grid=sums.grid)
    plain, damped = uneven.volume(), uneven.volume(torch.full((17,), 0.5, dtype=torch.float64))
    grid = cubic(32)
    one, two, even = (grid.rfft(of.double()).abs() for of in (damped, plain, sums.volume()))
    mean = uneven.mean_weight[10]
    kx = torch.arange(17).expand(grid.rfft_shape)
    on_shell = shells.shell_index(grid) == 10
    for where, weight_there in ((on_shell & (kx <= 3), 0.3), (on_shell & (kx >= 8), 3.0)):
        factor = float(one[where].norm() / two[where].norm())
        # without a prior weights leave no trace, but for the step between them, which the whole shell makes up for
        assert float(two[where].norm() / even[where].norm()) == pytest.approx(1.0, abs=0.05)
        # with F = 0.5 the prior weighs as much as the mean of the shell
        assert factor == pytest.approx(weight_there / (weight_there + float(mean)), abs=0.03)


def two_halves() -> tuple[SliceAccumulator, SliceAccumulator]:
    band = FourierBand(ImageGrid.square(24, PIXEL))
    padded = slices.prepare(volumes(1, 24, PIXEL)[0], cubic(24))
    found = []
    for half in (1, 2):
        rotations = random_rotations(half, "half", np.arange(300))
        parts = keyed_random.normal(half, "noise of a half", np.arange(300), size=(len(band), 2))
        noise = torch.view_as_complex(torch.from_numpy(0.02 * parts)).to(torch.complex64)
        values = project(padded, rotations, band) + noise
        found.append(accumulated(values, rotations, band))
    return found[0], found[1]


def test_joined_halves_are_equal_up_to_a_shell_and_as_they_were_beyond() -> None:
    shell = 4
    first, second = two_halves()
    one, two = join_low_shells(first, second, shell)
    radius = radii(first.grid) / 2
    low, high = radius < shell + 0.49, radius > shell + 0.51
    for name in ("data", "weight"):
        a, b, old_a, old_b = (getattr(of, name) for of in (one, two, first, second))
        assert torch.equal(a[low], b[low])
        torch.testing.assert_close(a[low], (old_a[low] + old_b[low]) / 2)
        assert torch.equal(a[high], old_a[high])
        assert torch.equal(b[high], old_b[high])
        assert not torch.equal(a[high], b[high])
    grid = cubic(24)
    curve = shells.fsc(*(grid.rfft(of.volume().double()) for of in (one, two)), grid)
    assert float(curve[1:shell].min()) > 0.99  # the edge of the box lets some of the other shells in
    assert float(curve[8:12].max()) < 0.9


def test_halves_joined_up_to_shell_0_share_nothing() -> None:
    first, second = two_halves()
    one, two = join_low_shells(first, second, 0)
    for new, old in ((one, first), (two, second)):
        assert torch.equal(new.data, old.data)
        assert torch.equal(new.weight, old.weight)


def test_joining_all_particles_adds_what_halves_have_seen() -> None:
    first, second = two_halves()
    both = first.joined(second)
    assert torch.equal(both.data, first.data + second.data)
    assert torch.equal(both.weight, first.weight + second.weight)
    inside = slice(3, 11)
    expected = 1 / (1 / first.error_variance()[inside] + 1 / second.error_variance()[inside])
    torch.testing.assert_close(both.error_variance()[inside], expected, rtol=1e-6, atol=0)


def test_completeness_is_the_share_of_a_shell_that_was_seen() -> None:
    side = 32
    band = FourierBand(ImageGrid.square(side, PIXEL))
    inside = slice(3, side // 2)

    def completeness(rotations: Tensor) -> Tensor:
        return accumulated(torch.ones(len(rotations), len(band), dtype=torch.complex64), rotations, band).completeness()

    every = completeness(random_rotations(1, "all", np.arange(1500)))
    assert float(every[inside].min()) > 0.99
    one = completeness(random_rotations(3, "one", np.arange(1)))
    # a plane of two layers of samples in a sphere of radius 2 s: 1 / (2 s)
    assert float(one[14]) == pytest.approx(1 / 28, rel=0.3)
    assert float(one[14]) < float(one[7]) < float(one[3])
    # beams along z up to 30°: seen are the directions that some of them are perpendicular to, all but a double cone
    tilt = torch.rad2deg(torch.acos(1 - (1 - np.cos(np.pi / 6)) * (torch.arange(1500) + 0.5) / 1500))
    rot = 360 * torch.arange(1500) * 0.6180339887
    cone = completeness(matrix_from_euler(rot, tilt, torch.zeros(1500)))
    assert float(cone[12]) == pytest.approx(np.sin(np.pi / 6), abs=0.06)
    grid = PaddedGrid(cubic(side))
    nothing = SliceAccumulator(
        data=torch.zeros(grid.shape, dtype=torch.complex64), weight=torch.zeros(grid.shape), grid=grid
    )
    assert float(nothing.completeness().max()) == 0.0


def test_nothing_seen_is_nothing_known() -> None:
    grid = PaddedGrid(cubic(16))
    sums = SliceAccumulator(
        data=torch.zeros(grid.shape, dtype=torch.complex64), weight=torch.zeros(grid.shape), grid=grid
    )
    assert float(sums.volume().abs().max()) == 0.0
    assert float(sums.volume(torch.full((9,), 0.5)).abs().max()) == 0.0
    assert sums.error_variance().tolist() == [0.0] * 9
    assert sums.mean_weight.tolist() == [0.0] * 9
