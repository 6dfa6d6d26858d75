"""What refinement by a template survives: a wrong defocus, pixel size or B-factor, and other boxes and micrographs."""

import pytest
import torch

from halfmap.geometry.rotations import angular_distance_degrees
from halfmap.template_matching.params import RefineTemplateParams
from halfmap.template_matching.polish import ParticleStates
from halfmap.template_matching.refine import refine_boxes
from halfmap.template_matching.search import Statistics
from support.template_particles import BOX, PIXEL, SIDE, model, observed, optics, perturbed, truth

N, SNR = 40, 20.0
RANGES = {"tilt_range_degrees": 3.0, "psi_range_degrees": 3.0, "defocus_min_angstrom": -250.0,
          "defocus_max_angstrom": 250.0}  # fmt: skip


def refined(boxes, *, defocus_error=0.0, **settings):
    """Return what refinement makes of displaced particles: errors of angle (°), place (px), defocus (Å), and scores."""
    true = truth(N)
    known = perturbed(true)
    known = ParticleStates(
        rotations=known.rotations,
        shifts_angstrom=torch.zeros_like(known.shifts_angstrom),
        defocus_angstrom=known.defocus_angstrom + defocus_error,
    )
    params = RefineTemplateParams(**{**RANGES, **settings})
    found = refine_boxes(model(), boxes, optics(N), known, Statistics.neutral(N, BOX - SIDE + 1), params)
    return {
        "angle": float(angular_distance_degrees(found.states.rotations, true.rotations).mean()),
        "place": float((found.states.shifts_angstrom - true.shifts_angstrom).norm(dim=-1).mean()) / PIXEL,
        "defocus": float((found.states.defocus_angstrom - true.defocus_angstrom).abs().median()),
        "score": float(found.fit.score.mean()),
        "size": float(found.pixel_size_offset_angstrom.median()),
    }


@pytest.fixture(scope="module")
def plain():
    return observed(model(), truth(N), SNR)


@pytest.fixture(scope="module")
def best(plain):
    return refined(plain)


@pytest.mark.slow
@pytest.mark.parametrize("error", [-300.0, -150.0, 150.0, 300.0])
def test_a_wrong_defocus_is_found_within_the_range_and_a_little_beyond(plain, best, error):
    found = refined(plain, defocus_error=error)
    # the climb is continuous, so a range of ±250 Å ends at none of its ends
    assert found["angle"] < best["angle"] + 0.15
    assert found["place"] < best["place"] + 0.02
    assert found["score"] > best["score"] - 0.1
    assert found["defocus"] < best["defocus"] + 40


@pytest.mark.slow
@pytest.mark.parametrize("percent", [-1.0, 1.0])
def test_a_pixel_size_wrong_by_one_percent_costs_little_and_is_found(best, percent):
    # pixels that are larger than it is said show the particle smaller, in those that are said
    wrong = model().with_pixel_size(PIXEL / (1 + percent / 100))
    boxes = observed(wrong, truth(N), SNR)
    found = refined(boxes)
    assert found["angle"] < best["angle"] + 0.3
    assert found["place"] < best["place"] + 0.05
    searched = refined(
        boxes, pixel_size_min_angstrom=-0.06, pixel_size_max_angstrom=0.06, pixel_size_step_angstrom=0.015
    )
    assert searched["size"] == pytest.approx(percent / 100 * PIXEL, abs=0.016)
    assert searched["score"] >= found["score"]


@pytest.mark.slow
@pytest.mark.parametrize("b_factor", [40.0, 80.0])
def test_a_b_factor_that_the_template_lacks_costs_little(best, b_factor):
    # the images keep their signal-to-noise ratio: what is lost is the template's fit
    found = refined(observed(model().with_b_factor(b_factor), truth(N), SNR))
    assert found["angle"] < 1.6 * best["angle"]
    assert found["place"] < best["place"] + 0.05
    assert best["score"] - 1 < found["score"] < best["score"] + 0.2
