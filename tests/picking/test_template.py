from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.optics.ctf import ctf
from halfmap.picking import log, template
from halfmap.picking.agreement import agreement, matched
from halfmap.picking.params import LogPickParams, TemplatePickParams
from support.blob_micrographs import PIXEL_SIZE, noise
from support.rod_micrographs import LENGTH, WIDTH, rod_micrograph, rod_reference, rods

SHAPE = (300, 331)
PARAMS = TemplatePickParams(diameter_angstrom=LENGTH, psi_step_degrees=10)
TEMPLATES = template.Templates(images=torch.from_numpy(rod_reference())[None], grid=ImageGrid.square(64, PIXEL_SIZE))
OPTICS = template.MicrographOptics(
    defocus_u_angstrom=60_000,
    defocus_v_angstrom=60_000,
    defocus_angle_degrees=0,
    phase_shift_degrees=0,
    voltage_kv=300,
    spherical_aberration_mm=2.7,
    amplitude_contrast=0.1,
)


def pick(image, params=PARAMS, templates=TEMPLATES, optics=None):
    return template.pick(
        torch.from_numpy(np.asarray(image)),
        pixel_size_angstrom=PIXEL_SIZE,
        params=params,
        templates=templates,
        optics=optics,
    )


@pytest.fixture(scope="module")
def scene():
    return rod_micrograph(SHAPE, 25, contrast=0.6)


@pytest.fixture(scope="module")
def found(scene):
    return pick(scene.image)


def test_elongated_particles_are_found_where_they_lie_and_as_they_are_turned(scene, found):
    assert agreement(found.position_pixel, scene.positions, distance=10).f1 > 0.95
    mine, true = matched(found.position_pixel, scene.positions, distance=10)
    offset = (found.position_pixel[mine] - scene.positions[true]) * PIXEL_SIZE
    assert np.sqrt((offset**2).mean(axis=0)).max() < 10  # Å: one work pixel along each axis
    turn = (found.psi_degrees[mine] - scene.psi_degrees[true]) % 180  # a rod looks the same turned over
    assert np.median(np.minimum(turn, 180 - turn)) < 5  # half a step


@pytest.mark.parametrize("diameters", [(WIDTH, LENGTH), (100.0, 140.0), (130.0, 130.0)])
def test_elongated_particles_are_found_better_than_by_a_sphere(scene, found, diameters):
    spheres = log.pick(
        scene.image,
        pixel_size_angstrom=PIXEL_SIZE,
        params=LogPickParams(
            min_diameter_angstrom=diameters[0],
            max_diameter_angstrom=diameters[1],
            min_distance_angstrom=PARAMS.pick_distance_angstrom,
        ),
    )
    by_template, by_sphere = (
        agreement(one.position_pixel, scene.positions, distance=LENGTH / 4 / PIXEL_SIZE).f1 for one in (found, spheres)
    )
    assert by_template > by_sphere + 0.05


def test_gain_and_offset_of_the_micrograph_change_nothing(scene, found):
    again = pick(3.5 * scene.image - 200)
    np.testing.assert_allclose(again.position_pixel, found.position_pixel, atol=0.05)  # px; float32
    np.testing.assert_allclose(again.figure_of_merit, found.figure_of_merit, rtol=1e-2)


def test_scale_offset_and_pixel_size_of_the_references_change_nothing(scene, found):
    images = 7 * torch.nn.functional.pad(TEMPLATES.images, (8, 8, 8, 8)) + 2
    again = pick(scene.image, templates=template.Templates(images=images, grid=ImageGrid.square(80, PIXEL_SIZE)))
    assert agreement(again.position_pixel, found.position_pixel, distance=1).f1 > 0.95


def test_white_particles_are_the_same_inverted(scene, found):
    again = pick(-scene.image, params=replace(PARAMS, white_particles=True))
    np.testing.assert_allclose(again.position_pixel, found.position_pixel, atol=0.05)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_is_found_in_noise(seed):
    assert len(pick((100 + noise(SHAPE, seed=seed)).astype(np.float32))) == 0


def test_the_template_that_is_there_is_named(scene):
    disc = torch.from_numpy((np.hypot(*np.mgrid[-32:32, -32:32]) < WIDTH / 2 / PIXEL_SIZE).astype(np.float32))
    both = template.Templates(images=torch.stack([disc, TEMPLATES.images[0]]), grid=TEMPLATES.grid)
    again = pick(scene.image, templates=both)
    mine, _ = matched(again.position_pixel, scene.positions, distance=10)
    assert (again.class_number[mine] == 2).mean() > 0.9


def test_the_score_is_the_correlation_written_out(scene):
    image = torch.from_numpy(noise((90, 101), seed=4).astype(np.float32))
    usable = torch.ones(image.shape, dtype=torch.bool)
    params = replace(PARAMS, psi_step_degrees=90)
    scored = template.score_templates(
        image, usable, pixel_size_angstrom=10.0, params=params, templates=TEMPLATES, optics=None
    )
    grid = ImageGrid.square(40, 10.0)
    [(_, turned)] = template._turned(TEMPLATES, grid, scored.psi_degrees, None, 20.0, 4)
    assert turned.flatten(1).norm(dim=1).numpy() == pytest.approx(1)
    kernels = template.RoundKernels((90, 101), 80.0, image.device)
    flat = template.flatten_background(image, usable, kernels, template.BACKGROUND * 20.0)
    pairs = []
    for y, x in ((30, 40), (45, 60), (50, 33)):
        window = flat[y - 20 : y + 20, x - 20 : x + 20]
        direct = [float((one * window).sum()) for one in turned]
        assert int(scored.best[y, x]) % 2 == int(np.argmax(direct)) % 2  # turned over, a rod is the same
        pairs.append((max(direct), float(scored.positive[y, x])))
    (a, b), (c, d), (e, f) = pairs
    assert (d - b) / (c - a) == pytest.approx((f - b) / (e - a), rel=1e-3)  # one shift and scale for all; float32


def test_references_multiplied_by_the_ctf_find_particles_that_were(scene):
    clean = rods(SHAPE, scene.positions, scene.psi_degrees)
    grid = ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_SIZE)
    seen = grid.irfft(grid.rfft(torch.from_numpy(clean)) * ctf(grid.frequencies(), **vars(OPTICS), dtype=torch.float64))
    image = (100 + noise(SHAPE, seed=5) - 1.2 * seen.numpy()).astype(np.float32)
    with_ctf, without = pick(image, optics=OPTICS), pick(image)
    f1 = [agreement(one.position_pixel, scene.positions, distance=10).f1 for one in (with_ctf, without)]
    assert f1[0] > 0.9
    assert f1[0] >= f1[1]
    both, _ = matched(with_ctf.position_pixel, scene.positions, distance=10)
    plain, _ = matched(without.position_pixel, scene.positions, distance=10)
    assert with_ctf.figure_of_merit[both].mean() > without.figure_of_merit[plain].mean()


def test_an_empty_reference_is_refused(scene):
    empty = template.Templates(images=torch.zeros(1, 64, 64), grid=TEMPLATES.grid)
    with pytest.raises(InputError, match="number 1 is empty"):
        pick(scene.image, templates=empty)


def test_a_particle_larger_than_the_micrograph_is_refused(scene):
    with pytest.raises(InputError, match="two thirds"):
        pick(scene.image, params=replace(PARAMS, diameter_angstrom=1200))


def test_detail_too_coarse_for_the_particle_is_refused():
    with pytest.raises(InputError, match="3 times --max-resolution"):
        TemplatePickParams(diameter_angstrom=50)
