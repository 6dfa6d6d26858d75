"""The constrained search: a small domain is found in the state in which each particle has it, and nowhere else."""

from dataclasses import replace

import pytest
import torch

from halfmap.errors import InputError
from halfmap.geometry.rotations import angular_distance_degrees, rotation_vector_from_matrix
from halfmap.template_matching.constrained import domain_rotations, number_of_trials, search_domains
from halfmap.template_matching.constrained_params import ConstrainedSearchParams
from halfmap.template_matching.global_search.peaks import cutoff_of
from support import domain_scenes
from support.domain_scenes import AXIS, CENTRE, STATES_DEGREES
from support.template_particles import BOX, PIXEL

PARAMS = ConstrainedSearchParams(
    axis=AXIS, centre_angstrom=CENTRE, turn_min_degrees=-20, turn_max_degrees=20, turn_step_degrees=4,
    tilt_max_degrees=4, tilt_step_degrees=4, whitening=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def scene():
    return domain_scenes.scene()


@pytest.fixture(scope="module")
def found(scene):
    return search_domains(
        scene.micrograph, PIXEL, scene.candidates, domain_scenes.domain_template(), BOX, PARAMS,
        particle_template=domain_scenes.body_template(),
    )  # fmt: skip


def turns_degrees(scene, found):
    turned = rotation_vector_from_matrix(scene.candidates.rotations.mT @ found.rotations)
    return torch.rad2deg(turned @ torch.tensor(AXIS, dtype=torch.float64))


def test_domains_are_found_where_there_are_any_and_only_there(scene, found):
    cutoff = cutoff_of(PARAMS.false_positives, n_places=1, n_correlations=number_of_trials(PARAMS))
    assert torch.equal(found.z > cutoff, scene.state < 2)
    assert float(found.z[scene.state < 2].mean()) == pytest.approx(10.0, abs=1.0)  # of 11 that went in
    assert bool((found.z >= found.start_z - 1e-6).all())


def test_each_domain_is_turned_into_its_own_state(scene, found):
    turns = turns_degrees(scene, found)
    for state, degrees in enumerate(STATES_DEGREES):
        # ten particles with an uncertainty of some 6° each
        assert float(turns[scene.state == state].mean()) == pytest.approx(degrees, abs=6)
    middle = sum(STATES_DEGREES) / 2
    right = (turns > middle) == (scene.state == 0)
    assert int(right[scene.state < 2].sum()) >= 19
    present = scene.state < 2
    true = scene.candidates.rotations @ domain_scenes.turns_of(scene.state)
    assert float(angular_distance_degrees(found.rotations, true)[present].median()) < 8
    # the middle of the frame lies 34 Å from the domain: a turn of 6° moves it by 1.2 px
    assert float((found.position_pixel - scene.position)[present].norm(dim=-1).median()) < 1


@pytest.mark.parametrize("inverted", [False, True])
def test_the_depth_of_the_domain_adds_to_its_defocus_or_subtracts(scene, inverted):
    depth = scene.candidates.rotations[:, 2] @ torch.tensor(CENTRE, dtype=torch.float64)
    assert float(depth.std()) > 15
    known = {f"{name}_{end}_{unit}": 0.0 for name, unit in (("turn", "degrees"), ("tilt", "degrees"),
             ("defocus", "angstrom")) for end in ("min", "max")}  # fmt: skip
    params = replace(PARAMS, inverted_depth=inverted, polish=False, **known)
    found = search_domains(scene.micrograph, PIXEL, scene.candidates, domain_scenes.domain_template(), BOX, params)
    assert torch.allclose(found.defocus_offset_angstrom, -depth if inverted else depth)


def test_what_the_particle_has_in_common_with_the_domain_counts_unless_it_is_taken_off(scene, found):
    alone = search_domains(scene.micrograph, PIXEL, scene.candidates, domain_scenes.domain_template(), BOX, PARAMS)
    missing = scene.state == 2
    assert float(alone.z[missing].min()) > 10
    assert float(found.z[missing].max()) < 5


def test_rotations_turn_about_the_axis_and_tilt_it_in_every_direction():
    rotations = domain_rotations(PARAMS)
    axis = torch.tensor(AXIS, dtype=torch.float64)
    assert len(rotations) == 11 * (1 + 6)
    assert number_of_trials(PARAMS) == 77 * 3 * 49
    tilt = torch.rad2deg(torch.acos((rotations @ axis @ axis).clamp(-1, 1)))
    assert tilt.round(decimals=4).unique().tolist() == pytest.approx([0, 4], abs=1e-4)
    assert float((rotations @ axis).mean(0) @ axis) > 0.997
    straight = rotation_vector_from_matrix(rotations[tilt < 1e-3])
    assert torch.allclose(torch.rad2deg(straight @ axis).sort().values, torch.arange(-20.0, 21, 4).double())
    assert bool((angular_distance_degrees(rotations, torch.eye(3, dtype=torch.float64)) < 1e-6).any())


def test_a_second_axis_bounds_the_tilts_and_a_whole_circle_is_closed_once():
    params = ConstrainedSearchParams(
        turn_min_degrees=-180, turn_max_degrees=180, turn_step_degrees=90, tilt_axis=(0, 1, 0), tilt_min_degrees=-8,
        tilt_max_degrees=2, tilt_step_degrees=2,
    )  # fmt: skip
    rotations = domain_rotations(params)
    assert len(rotations) == 4 * 6
    first = torch.rad2deg(rotation_vector_from_matrix(rotations))[12:18]  # the turn of 0
    assert torch.allclose(first[:, 1], torch.arange(-8.0, 3, 2).double())
    assert float(first[:, [0, 2]].abs().max()) < 1e-9


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"turn_min_degrees": 20.0}, "--turn-max must be at least --turn-min"),
        ({"axis": (0.0, 0.0, 0.0)}, "--axis must have a direction"),
        ({"tilt_min_degrees": -2.0}, "--tilt-min must be 0 where the domain tilts about every axis"),
        ({"tilt_axis": (0.0, 0.0, -2.0)}, "--tilt-axis must differ from --axis"),
    ],
)
def test_axes_and_ranges_that_make_no_sense_are_told(values, said):
    with pytest.raises(InputError, match=said):
        ConstrainedSearchParams(**values)
