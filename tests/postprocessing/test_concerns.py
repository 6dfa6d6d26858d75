"""Concerns: each is raised where its cause was put, and none where all is well."""

import dataclasses

import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.grid import ImageGrid
from halfmap.postprocessing import concerns
from halfmap.postprocessing.directional import DirectionalFsc
from halfmap.postprocessing.half_map_fsc import HalfMapFsc, JoinedShells
from halfmap.postprocessing.sharpening import sharpen
from support.half_maps import half_maps, sphere_mask, white

GRID = ImageGrid.cubic(64, 2.0)
N = shells.n_shells(GRID)


def falling(centre, width=2.0):
    """A curve from 1 to 0 with its middle at a shell."""
    return torch.sigmoid((centre - torch.arange(N, dtype=torch.float64)) / width)


def cut(curve, shell):
    """A curve of maps that hold nothing beyond a shell."""
    curve[shell + 1 :] = 0.0
    return curve


def measured(corrected, *, unmasked=None, randomised=None, shell=6, joined=None, band=None):
    zero = torch.zeros(N, dtype=torch.float64)
    return HalfMapFsc(
        grid=GRID,
        unmasked=falling(9) if unmasked is None else unmasked,
        masked=corrected.clone(),
        randomised=zero if randomised is None else randomised,
        corrected=corrected,
        randomise_from_shell=shell,
        box_over_particle=4.0,
        joined=joined or JoinedShells(),
        band_shell=band,
    )


def kinds(found):
    return [concern.kind for concern in found]


def test_agreement_within_reach_of_the_join_counts_as_the_join():
    joined = JoinedShells.within(8, field_angstrom=300.0, mask_diameter_angstrom=200.0)
    assert joined.reach == 3
    width = GRID.side * GRID.pixel_size_angstrom
    near, far = (measured(falling(centre, 0.3), joined=joined) for centre in (10, 12))
    assert width / 11 < near.crossing_angstrom < width / 10
    assert near.resolution_angstrom == width / 8
    assert near.last_shell == 8
    assert kinds(concerns.concerns_about_fsc(near)) == ["nothing beyond the join"]
    assert far.resolution_angstrom == far.crossing_angstrom
    assert concerns.concerns_about_fsc(far) == []


def test_a_good_curve_raises_no_concern():
    assert concerns.concerns_about_fsc(measured(falling(14))) == []
    # above zero as far as it goes, but since it has only begun to fall
    assert concerns.concerns_about_fsc(measured(cut(falling(18), 22), band=22)) == []


@pytest.mark.parametrize(
    ("fsc", "kind", "level"),
    [
        (measured(falling(60)), "resolution at the Nyquist frequency", "bad"),
        (measured(falling(28.2, 0.6)), "resolution at the Nyquist frequency", "warning"),
        (measured(cut(falling(60), 20), band=20), "resolution limited by the band of the last iteration", "warning"),
        (measured(cut(falling(60), N - 2), band=N - 2), "resolution at the Nyquist frequency", "bad"),
        (measured(cut(falling(14).clamp_min(0.12), 28), band=28), "FSC does not fall to zero", "bad"),
        (measured(falling(14).clamp_min(0.12)), "FSC does not fall to zero", "bad"),
        (measured(torch.zeros(N, dtype=torch.float64)), "no resolution", "bad"),
        (measured(falling(14), shell=None), "FSC never falls enough to randomise phases", "bad"),
        (measured(falling(14), randomised=falling(17)), "mask correlates", "warning"),
        (measured(falling(14), unmasked=falling(18)), "mask costs resolution", "warning"),
        (measured(falling(14), shell=16), "resolution read where the mask is not corrected for", "warning"),
        (measured(falling(5), unmasked=falling(1)), "half maps hardly agree", "bad"),
        (measured(torch.ones(N), unmasked=torch.ones(N)), "half maps are one map", "bad"),
    ],
)
def test_each_cause_raises_its_concern_alone(fsc, kind, level):
    found = concerns.concerns_about_fsc(fsc)
    assert kinds(found) == [kind]
    assert found[0].level == level
    assert found[0].text.endswith(".")


def test_a_curve_that_rises_again_names_how_far():
    curve = falling(12)
    curve[22:27] = 0.5
    found = concerns.concerns_about_fsc(measured(curve))
    assert kinds(found) == ["FSC rises again"]
    assert f"up to {128 / 26:.3g} Å" in found[0].text
    curve[22:27] = 0.0
    curve[24] = 0.5  # one shell alone is noise
    assert concerns.concerns_about_fsc(measured(curve)) == []


def test_masks_of_bad_shape_raise_concerns():
    good = sphere_mask(GRID, radius_angstrom=30, edge_angstrom=10)
    volume = float((good.values > 0.5).sum()) * 8.0
    assert concerns.concerns_about_mask(good) == []
    assert concerns.concerns_about_mask(good, molecular_mass_kilodalton=0.81e-3 * volume / 2) == []
    hard = sphere_mask(GRID, radius_angstrom=30, edge_angstrom=0)
    assert kinds(concerns.concerns_about_mask(hard)) == ["mask has a hard edge"]
    wide = sphere_mask(GRID, radius_angstrom=66, edge_angstrom=10)
    assert kinds(concerns.concerns_about_mask(wide)) == ["mask reaches the box's edge"]
    tight = concerns.concerns_about_mask(good, molecular_mass_kilodalton=0.81e-3 * volume * 1.1)
    assert kinds(tight) == ["mask too tight"]
    assert tight[0].level == "bad"
    assert kinds(concerns.concerns_about_mask(good, molecular_mass_kilodalton=0.81e-3 * volume / 6)) == [
        "mask generous"
    ]


def test_half_maps_that_were_masked_before_raise_a_concern():
    halves = half_maps(white(GRID, 0), GRID, noise=1.0)
    assert concerns.concerns_about_halves(*halves) == []
    mask = sphere_mask(GRID, radius_angstrom=45, edge_angstrom=6).values
    masked = (Volume(values=half.values * mask, grid=GRID) for half in halves)
    found = concerns.concerns_about_halves(*masked)
    assert kinds(found) == ["half maps are masked already"]
    assert found[0].words.startswith("Half maps are masked already. ")
    assert "hold the same value in both" in found[0].text


def test_fits_of_b_factors_raise_concerns():
    grid = ImageGrid.cubic(48, 1.5)
    curve = torch.ones(shells.n_shells(grid), dtype=torch.float64)

    def fitted(b_factor, **params):
        multiplier = torch.exp(-b_factor / 4 * grid.frequencies().square().sum(-1))
        signal = grid.irfft(grid.rfft(white(grid, 0, "structure")) * multiplier)
        params = concerns_params(**params)
        return sharpen(*half_maps(signal, grid, noise=1e-6), curve, 3.0, params)

    assert concerns.concerns_about_sharpening(fitted(80.0), is_automatic=True) == []
    rising = fitted(-80.0)
    assert kinds(concerns.concerns_about_sharpening(rising, is_automatic=True)) == ["B-factor does not sharpen"]
    assert concerns.concerns_about_sharpening(rising, is_automatic=False) == []
    few = fitted(80.0, fit_from_angstrom=3.6)
    assert kinds(concerns.concerns_about_sharpening(few, is_automatic=True)) == ["no B-factor"]
    assert few.b_factor_angstrom2 == 0


def concerns_params(**values):
    from halfmap.postprocessing.params import SharpeningParams

    return SharpeningParams(**values)


def test_directions_raise_a_concern_where_more_than_a_tenth_is_worse():
    directions = torch.nn.functional.normalize(torch.linspace(-1, 1, 300, dtype=torch.float64).reshape(100, 3), dim=1)
    even = DirectionalFsc(
        directions=directions,
        curves=torch.ones(100, N, dtype=torch.float64),
        resolution_angstrom=torch.full((100,), 4.0, dtype=torch.float64),
        cone_half_angle_degrees=20.0,
    )
    assert concerns.concerns_about_directions(even) == []
    for n_worse, expected in ((5, []), (20, ["resolution depends on the direction"])):
        resolution = even.resolution_angstrom.clone()
        resolution[:n_worse] = 7.0
        uneven = dataclasses.replace(even, resolution_angstrom=resolution)
        assert kinds(concerns.concerns_about_directions(uneven)) == expected


def test_concerns_are_data():
    concern = concerns.concerns_about_mask(Volume(values=torch.ones(GRID.shape), grid=GRID))[0]
    assert dataclasses.asdict(concern) == {
        "kind": "mask reaches the box's edge",
        "text": concern.text,
        "level": "warning",
    }
