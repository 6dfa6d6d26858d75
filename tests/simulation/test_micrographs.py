import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from halfmap.errors import InputError
from halfmap.fourier.resample import shift
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.optics.ctf import ctf
from halfmap.simulation import ice
from halfmap.simulation.layout import AGGREGATE, BROKEN, PARTICLE, lay_out
from halfmap.simulation.micrographs import micrograph, particle_phase
from halfmap.simulation.params import MicrographSimulationParams
from halfmap.simulation.references import interaction_constant_rad_per_volt_angstrom
from support.simulations import references

CLEAN = MicrographSimulationParams(
    size_pixel=(480, 450), pixel_size_angstrom=3.0, dirt=False, overlap_fraction=0.0, particles_per_micrograph=6
)
DIRTY = MicrographSimulationParams(size_pixel=(640, 600), pixel_size_angstrom=3.0, carbon_fraction=1.0)
BRIGHT = replace(CLEAN, dose_e_per_angstrom2=1e6, ice_thickness_angstrom=0.01, dqe=1.0)
EMPTY = replace(CLEAN, particles_per_micrograph=0)


def made(params, number=0):
    some = references()
    return micrograph(lay_out(number, params, some.diameters_angstrom), some, params)


def windows(result, params, side=80):
    """Cut windows centred to a fraction of a pixel on the particles that have no other in their window, bright on 0."""
    layout = result.layout
    nearest, _ = cKDTree(layout.position_pixel).query(layout.position_pixel, k=2)
    alone = (layout.kind == PARTICLE) & (nearest[:, 1] > side)
    half = side // 2
    contrast = torch.from_numpy(1 - result.counts / np.median(result.counts)).double()
    cut = []
    for x, y in layout.position_pixel[alone]:
        ix, iy = round(x), round(y)
        if ix < half or iy < half or ix + half > params.size_pixel[0] or iy + half > params.size_pixel[1]:
            continue
        window = contrast[iy - half : iy + half, ix - half : ix + half]
        grid = ImageGrid.square(side, params.pixel_size_angstrom)
        remainder = torch.tensor([ix - x, iy - y]) * params.pixel_size_angstrom
        cut.append(shift(window, grid, remainder))
    return torch.stack(cut)


def test_particles_are_dark_as_recorded():
    result = made(CLEAN)
    images = windows(result, CLEAN)
    radii = ImageGrid.square(80, 3.0).radii()
    assert len(images) > 0
    assert images[:, radii < 65].mean() > 0.01


def test_each_particle_lies_where_the_truth_says():
    params = replace(CLEAN, size_pixel=(600, 600), particles_per_micrograph=10)
    layout = lay_out(1, params, references().diameters_angstrom)
    grid = ImageGrid(shape=(600, 600), pixel_size_angstrom=3.0)
    phase = particle_phase(layout, references(), grid, 0, sigma=1.0).double()
    places = grid.positions() / 3.0 - grid.positions()[0, 0] / 3.0
    inside = (layout.position_pixel > 30).all(axis=1) & (layout.position_pixel < 570).all(axis=1)
    assert inside.sum() > 3
    for position in torch.from_numpy(layout.position_pixel[inside]):
        weights = phase * ((places - position).norm(dim=-1) < 24)
        found = (weights[..., None] * places).sum((0, 1)) / weights.sum()
        # the specimen's centre of mass is the origin in every view; the edge of the circle cuts a ripple
        assert (found - position).norm() < 0.05


def test_windows_of_recorded_particles_are_centred_to_a_twentieth_of_a_pixel():
    params = replace(BRIGHT, size_pixel=(1200, 1200), particles_per_micrograph=40, min_defocus_angstrom=15e3)
    images = windows(made(params), params)
    assert len(images) > 8
    grid = ImageGrid.square(80, 3.0)
    # a mean over many views is nearly round, so it correlates best with itself turned by 180° about its centre
    transform = grid.rfft(images.mean(dim=0))
    turned = grid.irfft(transform**2)
    y, x = np.unravel_index(int(turned.argmax()), turned.shape)
    peak = turned[y - 1 : y + 2, x - 1 : x + 2]
    fraction = [(c - a) / (2 * (2 * b - a - c)) for a, b, c in (peak[1], peak[:, 1])]
    centre = (np.array([x, y]) - 40 + np.array(fraction, dtype=float)) / 2
    assert np.linalg.norm(centre) < 0.05


def test_mean_counts_are_dose_times_transmission():
    params = replace(EMPTY, dose_e_per_angstrom2=30.0)
    expected = 30.0 * 9.0 * math.exp(-params.ice_thickness_angstrom / ice.ICE_ABSORPTION_LENGTH_ANGSTROM)
    # 96,000 pixels: standard error of the mean 0.06 %
    assert made(params).counts.mean() == pytest.approx(expected, rel=3e-3)
    assert made(replace(params, dose_e_per_angstrom2=60.0)).counts.mean() == pytest.approx(2 * expected, rel=3e-3)


def test_ice_noise_is_shot_noise_plus_grain_seen_through_the_ctf():
    params = replace(EMPTY, size_pixel=(512, 512), astigmatism_angstrom=0.0, ice_thickness_angstrom=1500.0)
    grid = ImageGrid.square(512, 3.0)
    results = [
        made(replace(params, seed=seed, min_defocus_angstrom=15e3, max_defocus_angstrom=15e3)) for seed in (1, 2)
    ]
    measured = torch.stack([noise.measure(torch.from_numpy(r.counts)[None], grid) for r in results]).mean(0)
    s = torch.arange(len(measured)) / (512 * 3.0)
    mean = float(np.mean([r.counts.mean() for r in results]))
    frequencies = torch.stack([s.double(), torch.zeros_like(s, dtype=torch.float64)], dim=-1)
    transfer = ctf(
        frequencies,
        defocus_u_angstrom=15e3,
        defocus_v_angstrom=15e3,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
    )
    power = ice.ice_grain_power(
        s,
        thickness_angstrom=1500.0,
        dose_e_per_angstrom2=params.dose_e_per_angstrom2,
        interaction_rad_per_volt_angstrom=interaction_constant_rad_per_volt_angstrom(300.0),
    )
    falloff = 1 - params.detector_falloff * (s * 6.0).clamp(max=1) ** 2
    grain = (2 * transfer * falloff * mean) ** 2 * power / 9.0
    shot = mean / params.dqe
    stated = (shot + grain) / (2 * grid.n_pixels)
    ratio = (measured / stated)[20:250].reshape(-1, 10).mean(dim=1)
    # ten shells of two images: 2 to 5 %, more where the CTF changes within a shell
    assert (ratio - 1).abs().max() < 0.12
    assert float((grain / shot).max()) > 0.5


def test_more_defocus_gives_more_contrast():
    near, far = (replace(BRIGHT, min_defocus_angstrom=d, max_defocus_angstrom=d) for d in (5e3, 25e3))
    assert windows(made(far), far).std() > 1.3 * windows(made(near), near).std()


def test_same_seed_same_micrograph_and_another_number_another_one():
    first, again, other = made(DIRTY, 2), made(DIRTY, 2), made(DIRTY, 3)
    np.testing.assert_array_equal(first.counts, again.counts)
    assert (first.counts != other.counts).mean() > 0.5


@pytest.mark.parametrize("name", ["ice_blobs", "carbon", "gradients", "hot_pixels", "replicated_border"])
def test_each_kind_of_dirt_has_its_switch(name):
    params = replace(CLEAN, dirt=True, junk=False, carbon_fraction=1.0, ice_blobs_per_micrometre2=500.0)
    switches = ("ice_blobs", "carbon", "gradients", "hot_pixels", "replicated_border")
    params = replace(params, size_pixel=(400, 400), **dict.fromkeys(switches, False))
    without = made(params)
    with_it = made(replace(params, **{name: True}))
    assert (without.counts != with_it.counts).any()
    assert without.border_pixel == (0, 0, 0, 0)
    off = made(replace(params, **{name: True}, dirt=False))
    np.testing.assert_array_equal(off.counts, without.counts)


def test_films_and_crystals_are_darker_than_ice_and_keep_particles_away():
    result = made(DIRTY, 1)
    layout = result.layout
    y, x = torch.meshgrid(torch.arange(600) * 3.0, torch.arange(640) * 3.0, indexing="ij")
    film = layout.carbon.distance_angstrom(x, y).numpy()
    clear = film < -150
    assert result.counts[film > 200].mean() < 0.97 * result.counts[clear].mean()
    positions = torch.from_numpy(layout.position_pixel * 3.0)
    assert (
        layout.carbon.distance_angstrom(positions[:, 0], positions[:, 1]).numpy()[layout.kind == PARTICLE] < -60
    ).all()
    for centre, diameter in zip(layout.crystals.positions_angstrom, layout.crystals.diameters_angstrom, strict=True):
        distance = np.linalg.norm(layout.position_pixel * 3.0 - centre, axis=1)[layout.kind == PARTICLE]
        assert (distance > diameter / 2 + 60).all()


def test_particles_keep_their_distance_unless_they_may_overlap():
    params = replace(CLEAN, size_pixel=(1200, 1200), particles_per_micrograph=None)
    apart = lay_out(0, params, (130.0,))
    nearest, _ = cKDTree(apart.position_pixel * 3.0).query(apart.position_pixel * 3.0, k=2)
    assert nearest[:, 1].min() >= 130.0
    crowded = lay_out(0, replace(params, overlap_fraction=0.5), (130.0,))
    nearest, _ = cKDTree(crowded.position_pixel * 3.0).query(crowded.position_pixel * 3.0, k=2)
    assert 65.0 <= nearest[:, 1].min() < 120.0


def test_number_of_particles_is_the_one_asked_for_on_average():
    params = replace(CLEAN, size_pixel=(800, 800), particles_per_micrograph=20)
    inside = [lay_out(n, params, (130.0,)).is_inside(params.size_pixel).sum() for n in range(60)]
    # Poisson: standard error 0.6
    assert np.mean(inside) == pytest.approx(20, abs=2)


def test_junk_is_told_from_particles():
    kinds = np.concatenate([lay_out(n, replace(DIRTY, junk_per_particle=0.4), (130.0,)).kind for n in range(4)])
    assert {PARTICLE, BROKEN, AGGREGATE} == set(kinds)


def test_preferred_views_reach_the_micrograph():
    params = replace(CLEAN, size_pixel=(1500, 1500), preferred_orientation=8.0, particles_per_micrograph=150)
    assert (lay_out(0, params, (130.0,)).rotation[:, 2, 2] ** 2).mean() > 0.8


def test_reference_of_another_pixel_size_is_refused():
    params = replace(CLEAN, pixel_size_angstrom=2.0)
    with pytest.raises(InputError, match="must have the micrographs' pixel size"):
        made(params)
