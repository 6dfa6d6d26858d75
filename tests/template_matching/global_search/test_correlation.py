"""Correlations through transforms: those of direct summation, blockwise or not, and of unit variance in noise."""

import pytest
import torch

from halfmap.grid import ImageGrid
from halfmap.template_matching.global_search.correlation import Correlator
from halfmap.template_matching.global_search.maps import CorrelationMaps, gather_plainly
from halfmap.template_matching.global_search.problem import MatchProblem
from halfmap.template_matching.template import prepare_template
from support.template_scenes import PIXEL_SIZE, SIDE, lopsided, noise, problem_of, settings

CPU = torch.device("cpu")


def correlator(shape=(70, 96), **more):
    problem = problem_of(noise(shape), settings(**more))
    return problem, Correlator.of(problem, CPU)


@pytest.mark.parametrize("step", [30.0, 40.0], ids=["paired", "single"])
def test_correlations_are_sums_over_the_template_at_every_place_where_it_fits(step):
    problem, ready = correlator(step=step, defocus_max_angstrom=400.0, defocus_step_angstrom=400.0)
    firsts = problem.units(torch.tensor([0, 7, 15]))
    images, numbers = ready.projections(firsts), ready.numbers(firsts)
    scores = ready.scores(images).unflatten(0, (problem.orientations_of_unit, -1))
    height, width = problem.map_shape
    for score, number, image in zip(scores[0], numbers[:, 0].tolist(), images, strict=True):
        assert torch.allclose(score[:height, :width], summed(problem.values, image), atol=1e-5)
        orientation, _, defocus = problem.place_of(torch.tensor(number))
        assert torch.allclose(ready.projections(orientation[None])[defocus], image, atol=1e-5)


def test_half_a_turn_is_correlated_with_by_the_same_transform():
    problem, ready = correlator(defocus_max_angstrom=400.0, defocus_step_angstrom=400.0)
    firsts = problem.units(torch.tensor([0, 7, 15]))
    images, numbers = ready.projections(firsts), ready.numbers(firsts)
    scores = ready.scores(images)[len(images) :]
    height, width = problem.map_shape
    for score, number, image in zip(scores, numbers[:, 1].tolist(), images, strict=True):
        orientation, _, defocus = problem.place_of(torch.tensor(number))
        turned = ready.projections(orientation[None])[defocus]
        flipped = image.flip((0, 1))
        # about the pixel n // 2, so the first line comes to lie behind the last one; the mean of the edges is another
        both = torch.stack([turned[1:, 1:].flatten(), flipped[:-1, :-1].flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.9999
        there = summed(problem.values, flipped)[1:, 1:]
        assert torch.allclose(score[: height - 1, : width - 1], there, atol=1e-5)


def summed(values, image):
    return torch.nn.functional.conv2d(values[None, None], image[None, None])[0, 0]


def test_blocks_of_columns_and_lines_give_the_maps_of_whole_transforms():
    problem, ready = correlator()
    units = problem.units(torch.arange(problem.n_units))
    blockwise = CorrelationMaps.empty(problem.map_shape)
    ready.gather(blockwise, units)
    whole = torch.stack([score for one in units for score in ready.scores(ready.projections(one[None]))])
    height, width = problem.map_shape
    whole = whole[:, :height, :width]
    n = problem.n_correlations
    assert torch.allclose(blockwise.best, whole.amax(0), atol=1e-5)
    assert torch.allclose(blockwise.mean(n), whole.mean(0), atol=1e-5)
    assert torch.allclose(blockwise.deviation(n), whole.std(0, correction=0), atol=1e-5)
    assert int(blockwise.histogram.sum()) == n * len(range(0, height, 8)) * len(range(0, width, 8))


def test_tensor_operations_gather_as_the_kernel_does():
    scores = torch.stack([noise((30, 44), number) for number in range(7)])
    numbers = torch.tensor([4, 9, 2, 30, 8, 1, 77], dtype=torch.int32)
    first, second = (CorrelationMaps.empty((30, 40)) for _ in range(2))
    for part in (slice(0, 3), slice(3, 7)):
        first.gather(scores[part], numbers[part])
        maps = (second.best, second.best_number, second.total, second.squares)
        gather_plainly(scores[part, :, :40], numbers[part], *maps)
    assert torch.equal(first.best, second.best)
    assert torch.equal(first.best_number, second.best_number)
    assert torch.allclose(first.total, second.total, rtol=1e-6, atol=1e-6)
    assert torch.allclose(first.squares, second.squares, rtol=1e-6)


@pytest.mark.parametrize(("shape", "side"), [((160, 160), SIDE), ((250, 198), SIDE), ((200, 236), SIDE - 6)])
def test_noise_correlates_with_mean_0_and_standard_deviation_1_at_a_fixed_pose(shape, side):
    cut = (SIDE - side) // 2
    density = lopsided()[cut : cut + side, cut : cut + side, cut : cut + side]
    template = prepare_template(density, ImageGrid.cubic(side, PIXEL_SIZE))
    total, squares, count = 0.0, 0.0, 0
    for number in range(16):
        problem = problem_of(noise(shape, number), settings(), template=template)
        ready = Correlator.of(problem, CPU)
        height, width = problem.map_shape
        score = ready.scores(ready.projections(problem.units(torch.tensor([5]))))[0, :height, :width]
        total += float(score.double().sum())
        squares += float(score.double().square().sum())
        count += score.numel()
    assert abs(total / count) < 0.01
    assert abs((squares / count) ** 0.5 - 1) < 0.01


def test_chunks_are_of_the_problem_alone_and_hold_every_unit_once():
    problem: MatchProblem = problem_of(noise((64, 64)), settings(step=20.0))
    object.__setattr__(problem, "units_of_chunk", 100)
    assert problem.n_chunks == -(-problem.n_units // 100)
    firsts = problem.units(torch.arange(problem.n_units))
    turned = firsts + len(problem.orientations.psi_degrees) // 2
    assert torch.equal(torch.cat([firsts, turned]).sort().values, torch.arange(len(problem.orientations)))
