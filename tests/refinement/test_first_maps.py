"""First maps of the halves: when they are made, and from what."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from halfmap.compute.in_process import InProcessExecutor
from halfmap.data.half_sets import HalfSets
from halfmap.data.image_source import ArraySource
from halfmap.data.volumes import Volume
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.refinement import first_maps
from halfmap.refinement.initial_model import ab_initio
from halfmap.refinement.initial_model.schedule import minibatch, n_iterations
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.problem import RefinementProblem
from halfmap.simulation.references import Reference
from support.simulated_halves import simulated_halves
from support.volume_images import volumes

SIDE, PIXEL = 32, 5.0
MAPS = ImageGrid.cubic(SIDE, PIXEL)


def params(**given: Any) -> RefinementParams:
    settings: dict[str, Any] = {
        "mask_diameter_angstrom": 130.0,
        "symmetry": "O",
        "initial_low_pass_angstrom": 50.0,
        **given,
    }
    return RefinementParams(**settings)


def shell() -> Volume:
    values = soft_sphere(MAPS, 60.0, 10.0) - soft_sphere(MAPS, 35.0, 10.0)
    return Volume(values=values.float(), grid=MAPS)


def lumpy(symmetry: str = "O") -> Volume:
    values = volumes(1, SIDE, PIXEL, radius_angstrom=45.0, symmetry=symmetry, seed=4)[0]
    return Volume(values=values * (8.0 / float(values.max())) + shell().values, grid=MAPS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"symmetry": "I2"}, True),
        ({"symmetry": "T"}, False),  # whose axes may lie in two ways
        ({"symmetry": "D2"}, False),
        ({"sigma_angles_degrees": 5.0}, False),  # known rotations hold for the reference
        ({"healpix_order": 5}, False),
        ({"max_resolution_angstrom": 20.0}, False),  # an eighth of the mask's diameter, 16 Å, cannot be compared
    ],
)
def test_a_round_reference_of_octahedra_and_icosahedra_makes_halves_begin_by_themselves(
    given: dict[str, Any], expected: bool
) -> None:
    assert first_maps.begins_by_itself((shell(),), params(**given)) is expected


def test_a_reference_that_tells_rotations_is_begun_with() -> None:
    assert not first_maps.begins_by_itself((lumpy(),), params(initial_low_pass_angstrom=20.0))
    assert not first_maps.begins_by_itself((lumpy(), lumpy()), params(initial_low_pass_angstrom=20.0))
    assert first_maps.begins_by_itself((lumpy(),), params(initial_low_pass_angstrom=60.0))


def test_what_symmetry_takes_from_a_reference_tells_no_rotations() -> None:
    place = MAPS.positions()
    oblong = Volume(values=(shell().values * (1 + place[..., 2] / 60.0)).float(), grid=MAPS)
    assert first_maps.off_round((oblong,), params(symmetry="C1")) > 0.1
    assert first_maps.begins_by_itself((oblong,), params())


def test_first_maps_have_details_that_their_steps_resolve_and_end_with_all_particles() -> None:
    run = first_maps.first_map_params(params(mask_diameter_angstrom=160.0), 0)
    batches = [minibatch(run, i, 1000) for i in range(1, n_iterations(run) + 1)]
    assert {one.resolution_angstrom for one in batches} == {20.0}
    assert {one.healpix_order for one in batches} == {2}
    assert batches[-1].n_particles == 1000
    seeds = {
        first_maps.first_map_params(params(seed=seed), half, number).seed
        for seed in (1, 2)
        for half in (0, 1)
        for number in range(first_maps.STARTS)
    }
    assert len(seeds) == 4 * first_maps.STARTS


def test_first_maps_of_one_particle_agree_whatever_their_hand_and_shell_and_others_do_not() -> None:
    first, second = (
        Volume(values=values, grid=MAPS)
        for values in volumes(2, SIDE, PIXEL, radius_angstrom=45.0, symmetry="O", seed=4)
    )
    away = (MAPS.positions().norm(dim=-1) - 45.0) / 15.0
    round_part = float(first.values.max()) * torch.exp(-away.square()).float()
    mirrored = Volume(values=first.values.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2)) + round_part, grid=MAPS)
    # voxels of 5 Å leave a twentieth of the round part's sides
    assert first_maps.agreement(first, mirrored, params()) > 0.9
    assert first_maps.agreement(first, second, params()) < first_maps.LEAST_AGREEMENT
    pair = first_maps.agreeing_pair([second, first], [mirrored], params())
    assert pair is not None
    assert pair[0] == (first, mirrored)
    assert first_maps.agreeing_pair([first], [second], params()) is None


def test_a_first_map_knows_nothing_of_the_other_half() -> None:
    case = simulated_halves(
        [Reference.of(lumpy(), 120.0, "lumpy")], number=24, grid=ImageGrid.square(SIDE, PIXEL), snr=1.0, seed=1
    )
    settings = params()
    found = []
    with InProcessExecutor(n_threads=1) as executor:
        for strength in (1.0, -3.0):
            halves = HalfSets(particles=case.particles)
            images = case.images.copy()
            images[halves.rows[1]] *= np.float32(strength)
            source = ArraySource(images=images, grid=case.grid)
            problem = RefinementProblem.of_halves(halves, source, settings, executor)
            maps = []
            for half in (0, 1):
                own = replace(first_maps.first_map_params(settings, half), minibatches=10)
                alone = first_maps.half_problem(problem, own, half, executor)
                state = ab_initio.start(alone, own)
                for _ in range(2):
                    state = ab_initio.advance(alone, own, state, executor)
                maps.append(state.references)
            found.append(maps)
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])
    assert float(found[0][0].abs().max()) > 0
