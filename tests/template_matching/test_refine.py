"""Refinement: simulated truth recovered within the uncertainties that are stated, and what the search computes."""

import pytest
import torch

from halfmap.errors import InputError
from halfmap.geometry.rotations import (
    angular_distance_degrees,
    matrix_from_rotation_vector,
    rotation_vector_from_matrix,
)
from halfmap.template_matching.boxes import Candidates, cut_particles
from halfmap.template_matching.model import cut_boxes
from halfmap.template_matching.params import RefineTemplateParams, stepped
from halfmap.template_matching.polish import ParticleStates, fit, polish
from halfmap.template_matching.refine import refine_boxes, refine_particles
from halfmap.template_matching.search import Statistics, search
from support import template_particles
from support.template_particles import BOX, PIXEL, SIDE, model, observed, optics, perturbed, template, truth


@pytest.fixture(scope="module")
def micrograph():
    return template_particles.micrograph()


def test_the_maximum_of_the_likelihood_is_found_with_honest_uncertainties():
    box_model, true = model(), truth(60)
    boxes = observed(box_model, true, 25.0)
    at_truth = fit(box_model, boxes, optics(60), true)
    found, found_fit = polish(box_model, boxes, optics(60), perturbed(true))
    # of noise alone: mean 6, and a standard deviation of √(12 / 60)
    gain = found_fit.score.square() - at_truth.score.square()
    assert float(gain.mean()) == pytest.approx(6, abs=1.2)
    errors = torch.cat(
        [
            found.shifts_angstrom - true.shifts_angstrom,
            (found.defocus_angstrom - true.defocus_angstrom)[:, None],
            rotation_vector_from_matrix(found.rotations @ true.rotations.mT),
        ],
        dim=-1,
    )
    pulls = (errors / found_fit.covariance().diagonal(dim1=-2, dim2=-1).sqrt()).square().mean(0).sqrt()
    assert ((pulls > 0.75) & (pulls < 1.3)).all(), pulls  # 1 ± 0.09 for 60 particles, three times over
    assert float(angular_distance_degrees(found.rotations, true.rotations).mean()) < 1.3


def test_what_the_fit_says_of_slopes_agrees_with_differences():
    box_model, true = model(), truth(4)
    boxes = observed(box_model, true, 16.0)
    start = perturbed(true)
    here = fit(box_model, boxes, optics(4), start)
    for parameter, step in enumerate((0.02, 0.02, 2.0, 3e-4, 3e-4, 3e-4)):
        steps = torch.zeros(4, 6, dtype=torch.float64)
        steps[:, parameter] = step
        ahead, behind = (fit(box_model, boxes, optics(4), start.moved(way * steps)) for way in (1, -1))
        slope = (ahead.likelihood.square() - behind.likelihood.square()) / (4 * step)
        # linear interpolation has kinks
        expected = here.gradient[:, parameter] * here.amplitude
        assert torch.allclose(slope, expected, rtol=0.1, atol=0.05 * float(expected.abs().max()))


def test_the_search_finds_the_best_of_all_scores_and_moves_its_window_after_it():
    box_model, true = model(), truth(1)
    true = ParticleStates(rotations=true.rotations, shifts_angstrom=torch.tensor([[6.0, -15.0]], dtype=torch.float64),
                          defocus_angstrom=torch.tensor([100.0], dtype=torch.float64))  # fmt: skip
    boxes = observed(box_model, true, 16.0)
    turn = matrix_from_rotation_vector(torch.tensor([[0.0, 0, 0], [0, 0.1, 0], [0.2, 0, 0]], dtype=torch.float64))
    rotations = turn @ true.rotations
    defocus = torch.tensor([-300.0, 100.0, 500.0], dtype=torch.float64)
    ctf, _ = (
        optics(1).take(torch.zeros(3, dtype=torch.int64)).with_defocus_added(defocus).ctf(box_model.band.frequencies)
    )
    found = search(
        box_model, boxes[0], ctf, Statistics.neutral(1, 17), 0,
        slices=box_model.slices(rotations), rotations=rotations, defocus_angstrom=defocus,
        start_pixel=torch.zeros(2, dtype=torch.int64), reach_pixel=3, limit_pixel=8, n_best=2,
    )  # fmt: skip
    assert found.states.shifts_angstrom[0].tolist() == [6.0, -15.0]
    assert found.states.defocus_angstrom[0] == 100
    assert torch.equal(found.states.rotations[0], rotations[0])
    assert len(found.states) == 2
    assert found.n_correlations == 2 * 3 * 3 * 49  # the window has moved once
    direct = fit(box_model, boxes, optics(1), true)
    assert float(found.z[0]) == pytest.approx(float(direct.score[0]), rel=1e-4)


def test_particles_of_a_micrograph_are_refined_to_below_a_pixel_and_a_degree(micrograph):
    image, candidates, rotations, position = micrograph
    params = RefineTemplateParams(batch=7, tilt_range_degrees=3, psi_range_degrees=3, whitening_max_frequency=None)
    refined = refine_particles(image, PIXEL, candidates, template(), BOX, params)
    apart = angular_distance_degrees(refined.rotations, rotations)
    before = angular_distance_degrees(candidates.rotations, rotations)
    assert float(apart[1:].mean()) < min(1.0, float(before[1:].mean()))
    assert float((refined.position_pixel - position)[1:].norm(dim=-1).mean()) < 0.2
    assert float(refined.defocus_offset_angstrom[1:].abs().median()) < 150
    assert bool((refined.mip >= refined.start_mip).all())
    assert torch.equal(refined.z, refined.mip)  # where the statistics are those of white noise
    assert len(refined) == len(candidates)


def test_the_statistics_of_the_search_turn_scores_into_z(micrograph):
    image, candidates, *_ = micrograph
    wide = Statistics(mean=torch.full((16, 17, 17), 0.5), deviation=torch.full((16, 17, 17), 1.25))
    some = Candidates(position_pixel=candidates.position_pixel, rotations=candidates.rotations,
                      optics=candidates.optics, statistics=wide)  # fmt: skip
    params = RefineTemplateParams(polish=False, orientations=False, defocus_min_angstrom=0, defocus_max_angstrom=0)
    refined = refine_particles(image, PIXEL, some, template(), BOX, params)
    assert torch.allclose(refined.z, (refined.mip - 0.5) / 1.25)
    assert torch.equal(refined.rotations, candidates.rotations)
    assert bool(refined.uncertainty.isnan().all())


def test_a_template_of_another_pixel_size_is_found_out(micrograph):
    image, candidates, *_ = micrograph
    wrong = template().with_pixel_size(PIXEL - 0.06)
    params = RefineTemplateParams(
        pixel_size_min_angstrom=-0.12, pixel_size_max_angstrom=0.12, pixel_size_step_angstrom=0.06
    )
    refined = refine_particles(image, PIXEL, candidates, wrong, BOX, params)
    assert float(refined.pixel_size_offset_angstrom.median()) == pytest.approx(-0.06)


def test_boxes_are_cut_with_zeros_or_mirrored_beyond_the_image():
    image = torch.arange(20.0).reshape(4, 5)
    corner = torch.tensor([[-1, 2]])
    assert cut_boxes(image, corner, 3)[0].tolist() == [[0, 10, 11], [0, 15, 16], [0, 0, 0]]
    assert cut_boxes(image, corner, 3, reflect=True)[0].tolist() == [[11, 10, 11], [16, 15, 16], [11, 10, 11]]


def test_a_box_must_be_even_and_larger_than_the_template(micrograph):
    image, candidates, *_ = micrograph
    for side in (SIDE, SIDE + 5):
        with pytest.raises(InputError, match="even and larger than the template, 40 px"):
            refine_particles(image, PIXEL, candidates, template(), side, RefineTemplateParams())


def test_offsets_hold_zero_and_never_step_wider_than_asked():
    params = RefineTemplateParams(defocus_min_angstrom=-100, defocus_max_angstrom=100, defocus_step_angstrom=20)
    assert params.defocus_offsets_angstrom() == tuple(range(-100, 101, 20))
    assert params.defocus_offsets_angstrom(70.0) == pytest.approx((-100, -33.33, 0, 33.33, 100), abs=0.01)
    assert stepped(-30, 30, 20, False) == (-30, -10, 10, 30)
    with pytest.raises(InputError, match="swap them"):
        RefineTemplateParams(defocus_min_angstrom=5, defocus_max_angstrom=-5)


def test_what_is_not_refined_keeps_its_value_and_has_no_uncertainty(micrograph):
    image, candidates, *_ = micrograph
    few = Candidates(position_pixel=candidates.position_pixel[:4], rotations=candidates.rotations[:4],
                     optics=candidates.optics.take(torch.arange(4)),
                     statistics=Statistics.neutral(4, 17))  # fmt: skip
    whole = refine_particles(image, PIXEL, few, template(), BOX, RefineTemplateParams())
    params = RefineTemplateParams(orientations=False, defocus_min_angstrom=0, defocus_max_angstrom=0)
    kept = refine_particles(image, PIXEL, few, template(), BOX, params)
    assert torch.equal(kept.rotations, few.rotations)
    assert not bool(kept.defocus_offset_angstrom.any())
    assert bool((kept.mip > kept.start_mip).all())
    assert bool(kept.uncertainty[:, 2:].isnan().all())
    # what is known makes what is not known no less certain, at the same place and score
    assert bool(
        (kept.uncertainty[:, :2] * kept.mip[:, None] < 1.05 * whole.uncertainty[:, :2] * whole.mip[:, None]).all()
    )
    in_plane = refine_particles(
        image, PIXEL, few, template(), BOX, RefineTemplateParams(tilt_range_degrees=0, defocus_max_angstrom=200)
    )
    turned = rotation_vector_from_matrix(in_plane.rotations @ few.rotations.mT)
    assert float(turned[:, :2].abs().max()) < 1e-6 < float(turned[:, 2].abs().min())
    assert in_plane.uncertainty.isnan().any(dim=0).tolist() == [False, False, False, True, True, False]


def test_pixel_sizes_are_compared_where_the_template_is_at_each_of_them(micrograph):
    image, candidates, *_ = micrograph
    params = RefineTemplateParams(
        orientations=False, polish=False, defocus_min_angstrom=0, defocus_max_angstrom=0,
        pixel_size_min_angstrom=-0.3, pixel_size_max_angstrom=0.3, pixel_size_step_angstrom=0.3,
    )  # fmt: skip
    boxes = next(iter(cut_particles(image, PIXEL, candidates, template(), BOX, params)))
    model = boxes.model.with_pixel_size(PIXEL**2 / (PIXEL + 0.3))
    beyond = model.band.shell_of > model.shell_of_all([PIXEL**2 / (PIXEL + by) for by in (-0.3, 0.0, 0.3)])
    ctf, _ = boxes.optics.ctf(model.band.frequencies)
    # at the frequencies that only some of the templates fill there is the wrong one
    misled = boxes.observed + 20 * beyond * model.slices(boxes.known.rotations) * ctf * model.gain
    for values in (boxes.observed, misled):
        found = refine_boxes(
            model.with_template(template()), values, boxes.optics, boxes.known, boxes.statistics, params
        )
        assert float(found.pixel_size_offset_angstrom[1:].abs().max()) == 0
    assert float((misled - boxes.observed).abs().max()) > float(boxes.observed.abs().max())
