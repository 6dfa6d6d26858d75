"""Particles seen through aberrations are found as well as others, once the aberrations are known."""

import math

import pytest
import torch

from halfmap import keyed_random
from halfmap.geometry.rotations import angular_distance_degrees
from halfmap.grid import ImageGrid
from halfmap.optics.aberrations import odd_phase, odd_zernike_with_tilt
from halfmap.template_matching.aberrations import NO_ABERRATIONS, Aberrations
from halfmap.template_matching.boxes import Candidates
from halfmap.template_matching.params import RefineTemplateParams
from halfmap.template_matching.refine import refine_particles
from halfmap.template_matching.search import Statistics
from support import template_particles
from support.template_particles import BOX, PIXEL, optics, template, truth

N = 9
ABERRATIONS = Aberrations(
    even_zernike=(0.0, 0.0, 0.0, 0.0, 14000.0, 0.0, 0.0, 0.0, -10000.0),
    odd_zernike=odd_zernike_with_tilt((), beam_tilt_mrad=(40.0, -30.0), voltage_kv=300.0, spherical_aberration_mm=2.7),
    magnification=(1.08, 0.01, 0.02, 0.94),
)


def micrograph(aberrations):
    """N particles on a lattice at their true poses, as a microscope with aberrations records them."""
    states, lenses = truth(N), optics(N)
    grid = ImageGrid.square(BOX, PIXEL)
    band = template_particles.model().band
    slices = template().slices(aberrations.rotations(states.rotations), band)
    lenses = lenses.with_defocus_added(states.defocus_angstrom)
    views = slices * lenses.ctf(band.frequencies, aberrations)[0]
    views = views * (22.0 / views.abs().square().sum(-1, keepdim=True).sqrt())
    views = views * torch.polar(torch.ones(()), aberrations.odd_phase(band.frequencies).float())
    turns = -2 * math.pi * (states.shifts_angstrom @ band.frequencies.T)
    views = views * torch.polar(torch.ones(()), turns.to(torch.float32))
    images = grid.irfft(band.scatter(views / (BOX * math.sqrt(2))))
    apart = 80
    values = torch.from_numpy(keyed_random.normal(6, "aberrated", 1, size=(3 * apart, 3 * apart))).to(torch.float32)
    centre = torch.tensor([[apart // 2 + apart * (i % 3), apart // 2 + apart * (i // 3)] for i in range(N)])
    for (x, y), image in zip((centre - BOX // 2).tolist(), images, strict=True):
        values[y : y + BOX, x : x + BOX] += image
    known = Candidates(
        position_pixel=centre.double(), rotations=states.rotations, optics=lenses,
        statistics=Statistics.neutral(N, 17), aberrations=aberrations,
    )  # fmt: skip
    return -values, known, centre + states.shifts_angstrom / PIXEL


@pytest.mark.parametrize(
    "part", ["even_zernike", "odd_zernike", "magnification"], ids=["even", "beam tilt", "magnification"]
)
def test_a_known_aberration_costs_nothing_and_an_unknown_one_does(part):
    aberrations = Aberrations(**{part: getattr(ABERRATIONS, part)})
    params = RefineTemplateParams(
        whitening=False, orientations=aberrations.is_magnified, tilt_range_degrees=2, psi_range_degrees=2,
        defocus_min_angstrom=0, defocus_max_angstrom=0,
    )  # fmt: skip
    image, known, position = micrograph(aberrations)
    found = refine_particles(image, PIXEL, known, template(), BOX, params)
    assert float(found.z.mean()) == pytest.approx(22.0, abs=1.2)  # of 22 that went in, σ/√9 thrice
    assert float((found.position_pixel - position).norm(dim=-1).mean()) < 0.15
    assert float(angular_distance_degrees(found.rotations, known.rotations).mean()) < 1.2
    unaware = Candidates(position_pixel=known.position_pixel, rotations=known.rotations, optics=known.optics,
                         statistics=known.statistics)  # fmt: skip
    blind = refine_particles(image, PIXEL, unaware, template(), BOX, params)
    assert float(blind.z.mean()) < float(found.z.mean()) - 1


def test_a_beam_tilt_among_the_coefficients_is_the_same_phase():
    frequencies = torch.from_numpy(keyed_random.normal(1, "frequencies", 1, size=(50, 2))) * 0.1
    lens = {"voltage_kv": 200.0, "spherical_aberration_mm": 1.4}
    odd = (0.3, -0.2, 5.0, 9.0, -9.0, 4.0)
    expected = odd_phase(frequencies, odd_zernike=odd, beam_tilt_mrad=(0.4, -0.7), **lens)
    merged = odd_zernike_with_tilt(odd, beam_tilt_mrad=(0.4, -0.7), **lens)
    assert torch.allclose(odd_phase(frequencies, odd_zernike=merged, **lens), expected)
    assert torch.allclose(Aberrations(odd_zernike=merged).odd_phase(frequencies), expected)
    assert not NO_ABERRATIONS.is_odd
