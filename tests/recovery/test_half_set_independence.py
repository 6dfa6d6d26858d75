"""Half-maps share nothing beyond the join: noise, two truths and a poisoned reference show nothing but chance there.

What chance shows is taken from maps that cannot share anything: half-maps of different runs, whose noise, truth and
reference are different, or random phases that no run was given. White noise under the same mask would not do: where
poses are uncertain a half-map is a mean over orientations, nearly round, so that a shell of it holds few independent
values and the FSC of unrelated half-maps scatters some three times as far as that of white noise.

Shells up to the join, and those up to two cycles per mask diameter beyond, to which the images' masks carry what is
shared, are not looked at. Of the others a run is judged by two numbers, whose limits were set when white noise had been
found to scatter too little, and the runs below to lie outside its band with either sign:

- ``largest``: its largest deviation over shells, in deviations of the unrelated pairs in each shell, over the 99 %
  quantile of their own largest: a 99 % band of all shells together;
- ``mean``: its mean deviation over shells, in deviations of the mean of the unrelated pairs. A weak leak moves it.

A quantile of 24 to 100 values is known badly: chance leaves the band in up to 4 % of runs. So of 4 runs at most one
may, of 15 at most 3 (more happen by chance in less than 1 % of cases); and means, summed over runs, stay within 3.3
deviations. What all runs would share alike, as through the way poses are searched, is not told by such pairs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import pytest
import torch
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.postprocessing.half_map_fsc import random_phases
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.state import RefinementState
from halfmap.simulation.references import Reference
from support.simulated_halves import half_volumes, refined, refined_from_first_maps, simulated_halves, symmetric_white
from support.volume_images import volumes

SIDE, PIXEL = 32, 5.0
IMAGES, MAPS = ImageGrid.square(SIDE, PIXEL), ImageGrid.cubic(SIDE, PIXEL)
MASK_DIAMETER, JOIN = 110.0, 40.0
JOIN_SHELL = math.ceil(SIDE * PIXEL / JOIN)
FIRST = JOIN_SHELL + math.ceil(2 * SIDE * PIXEL / MASK_DIAMETER) + 1
LAST = JOIN_SHELL + 10
"""Of a run that resolves no more than the join, and takes ten shells more."""

PARTICLE = soft_sphere(MAPS, 36.0, 15.0, dtype=torch.float64)
MASK = soft_sphere(MAPS, 40.0, 20.0, dtype=torch.float64)
SYMMETRIES = ("C1", "D2", "O")


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Of a curve from chance; see the head of this file."""

    largest: float
    mean: float


def deviations(curves: Sequence[Tensor], unrelated: Sequence[Tensor]) -> list[Deviation]:
    pairs = torch.stack(list(unrelated))
    spread = pairs.square().mean(0).sqrt()
    limit = torch.quantile((pairs / spread).abs().amax(1), 0.99)
    of_mean = (pairs / spread).mean(1).square().mean().sqrt()
    return [
        Deviation(largest=float((curve / spread).abs().max() / limit), mean=float((curve / spread).mean() / of_mean))
        for curve in curves
    ]


def assert_by_chance(found: Sequence[Deviation]) -> None:
    assert sum(one.largest > 1 for one in found) <= (1 if len(found) < 15 else 3), found
    assert abs(sum(one.mean for one in found)) / len(found) ** 0.5 < 3.3, found


def masked_fsc(first: Tensor, second: Tensor) -> Tensor:
    """Correlate, under the mask, the shells that are looked at.

    The rest is taken away first: joined shells, where the contrast transfer is weak, hold a thousand times as much
    noise as those beyond, and the mask would carry it there.
    """
    beyond = (shells.shell_index(MAPS) >= FIRST).double()
    one, two = (MAPS.rfft(MAPS.irfft(MAPS.rfft(values.double()) * beyond) * MASK) for values in (first, second))
    return shells.fsc(one, two, MAPS)[FIRST : LAST + 1]


Halves = tuple[Tensor, Tensor]


def halves_of(state: RefinementState) -> Halves:
    assert int(state.history["shell"][-1]) >= LAST
    first, second = half_volumes(state, MAPS)
    return first.values, second.values


def half_map_deviations(runs: Sequence[Halves]) -> list[Deviation]:
    """Judge the halves of runs by those of different runs."""
    unrelated = [masked_fsc(one, two) for a, b in combinations(runs, 2) for one in a for two in b]
    return deviations([masked_fsc(*run) for run in runs], unrelated)


def in_all_symmetries(run: Callable[[str, int], Halves]) -> list[Deviation]:
    return [
        one for symmetry in SYMMETRIES for one in half_map_deviations([run(symmetry, seed) for seed in range(1, 6)])
    ]


def params(symmetry: str, **settings: object) -> RefinementParams:
    given = {
        "mask_diameter_angstrom": MASK_DIAMETER,
        "symmetry": symmetry,
        "join_resolution_angstrom": JOIN,
        "initial_low_pass_angstrom": 50.0,
        **settings,
    }
    return RefinementParams(**given)


def blobs(symmetry: str, seed: int) -> Tensor:
    return volumes(1, SIDE, PIXEL, radius_angstrom=45.0, symmetry=symmetry, seed=seed)[0].double()


def of_noise(symmetry: str, seed: int, *, number: int, strength: float = 1.0, **settings: object) -> Halves:
    """Refine images of nothing from some map."""
    reference = Volume(values=strength * blobs(symmetry, seed).float(), grid=MAPS)
    case = simulated_halves(
        [Reference.of(reference, 100.0, "not shown")], number=number, grid=IMAGES, snr=0.0, seed=seed
    )
    return halves_of(refined(case, reference, params(symmetry, **settings)))


def test_halves_of_noise_agree_by_chance_alone() -> None:
    assert_by_chance(half_map_deviations([of_noise("O", seed, number=40, max_iterations=3) for seed in range(1, 5)]))


def test_halves_of_noise_that_are_compared_with_one_fine_reference_leave_the_band() -> None:
    """What these tests show where halves share a reference beyond the join, strong enough to make poses certain."""
    shared = {"absolute_greyscale": True, "initial_low_pass_angstrom": 11.0, "max_iterations": 1, "strength": 20.0}
    found = half_map_deviations([of_noise("O", seed, number=60, **shared) for seed in range(1, 5)])
    assert sum(one.mean for one in found) / len(found) ** 0.5 > 3.3
    with pytest.raises(AssertionError):
        assert_by_chance(found)


@pytest.mark.slow
def test_halves_of_noise_agree_by_chance_alone_in_all_symmetries() -> None:
    assert_by_chance(in_all_symmetries(lambda symmetry, seed: of_noise(symmetry, seed, number=80, max_iterations=5)))


@pytest.mark.slow
def test_halves_of_noise_that_begin_with_first_maps_of_their_own_agree_by_chance_alone() -> None:
    nothing = Reference.of(Volume(values=blobs("O", 1).float(), grid=MAPS), 100.0, "not shown")
    runs = []
    for seed in range(1, 6):
        case = simulated_halves([nothing], number=80, grid=IMAGES, snr=0.0, seed=seed)
        settings = params("O", max_iterations=5, seed=seed)
        runs.append(halves_of(refined_from_first_maps(case, settings, minibatches=20)))
    assert_by_chance(half_map_deviations(runs))


def with_own_details(symmetry: str, seed: int, number: int) -> Volume:
    """Return a map whose shells up to the join are those of all of this seed, and whose finer ones are its own."""
    fine = (shells.shell_index(MAPS) > JOIN_SHELL).double()
    common = MAPS.irfft(MAPS.rfft(blobs(symmetry, seed)) * (1 - fine))
    own = MAPS.irfft(MAPS.rfft(symmetric_white(MAPS, symmetry, 10 * seed + number, "own details") * PARTICLE) * fine)
    return Volume(values=(common + 0.6 * float(common.std() / own.std()) * own).float(), grid=MAPS)


def of_two_truths(symmetry: str, seed: int, *, number: int, **settings: object) -> Halves:
    """Refine halves that show maps which are the same up to the join, and different beyond."""
    one, two = (with_own_details(symmetry, seed, half) for half in (1, 2))
    references = [Reference.of(one, 100.0, "one"), Reference.of(two, 100.0, "two")]
    case = simulated_halves(references, number=number, grid=IMAGES, snr=2.0, seed=seed)
    found = halves_of(refined(case, one, params(symmetry, **settings)))
    if symmetry != "C1":  # whose images are too few to show them
        own = [float(masked_fsc(half, shown.values)[:3].mean()) for half, shown in zip(found, (one, two), strict=True)]
        assert max(own) > 0.15  # a half sees its own truth
    return found


def test_halves_that_show_two_truths_agree_by_chance_alone_where_these_differ() -> None:
    assert_by_chance(
        half_map_deviations([of_two_truths("D2", seed, number=40, max_iterations=3) for seed in range(1, 5)])
    )


@pytest.mark.slow
def test_halves_that_show_two_truths_agree_by_chance_alone_in_all_symmetries() -> None:
    assert_by_chance(
        in_all_symmetries(lambda symmetry, seed: of_two_truths(symmetry, seed, number=80, max_iterations=6))
    )


def poisoned(truth: Volume, seed: int) -> Tensor:
    """Return a map up to 50 Å, with random phases beyond."""
    transform = MAPS.rfft(truth.values.double())
    return MAPS.irfft(random_phases(transform, MAPS, math.ceil(SIDE * PIXEL / 50.0), seed=seed, half=1))


def of_a_poisoned_reference(symmetry: str, seed: int, *, number: int, **settings: object) -> Deviation:
    """Refine from poison and from the truth; judge the first map's likeness of the poison by that of 100 others."""
    truth = with_own_details(symmetry, seed, 1)
    case = simulated_halves([Reference.of(truth, 100.0, "truth")], number=number, grid=IMAGES, snr=2.0, seed=seed)
    poison = poisoned(truth, seed)
    dirty, clean = (
        refined(case, Volume(values=values.float(), grid=MAPS), params(symmetry, **settings))
        for values in (poison, truth.values)
    )
    ends = [SIDE * PIXEL / state.history["resolution_angstrom"][-1] for state in (dirty, clean)]
    assert abs(ends[0] - ends[1]) < 1.5, ends  # the same shell, or its neighbour
    others = [masked_fsc(dirty.joined, poisoned(truth, 1000 + n)) for n in range(100)]
    return deviations([masked_fsc(dirty.joined, poison)], others)[0]


def test_random_phases_of_a_reference_do_not_reach_the_map() -> None:
    assert_by_chance([of_a_poisoned_reference("D2", 1, number=50, max_iterations=4)])


@pytest.mark.slow
def test_random_phases_of_a_reference_do_not_reach_the_map_in_any_symmetry() -> None:
    assert_by_chance(
        [
            of_a_poisoned_reference(symmetry, seed, number=80, max_iterations=6)
            for symmetry in SYMMETRIES
            for seed in range(1, 6)
        ]
    )
