"""References of every kind, brought to the particles' grid or refused with a remedy."""

import numpy as np
import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, InputError
from halfmap.fourier.resample import crop_or_pad, rescale_to_pixel_size
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.jobs.reference_inputs import extent_angstrom, read_mask, read_reference
from support.half_maps import sphere_mask
from support.refinement_runs import blobs

GRID = ImageGrid.cubic(24, 4.0)
PARTICLES = ImageGrid.square(24, 4.0)


def saved(path, values, grid=GRID):
    mrc.write_volume(path, Volume(values=values.float(), grid=grid))
    return path


def read(path, grid=PARTICLES, low_pass=40.0, **words):
    """Return the volumes, and what was said and warned of."""
    said, warned = [], []
    volumes = read_reference(path, grid, low_pass, message=said.append, warn=warned.append, **words)
    return volumes, said, warned


def without_pixel_size(path):
    """Clear the cell in the header of a map."""
    with open(path, "r+b") as stream:
        stream.seek(40)
        stream.write(bytes(12))
    return path


def test_a_map_on_the_grid_of_the_particles_is_taken_as_it_is(tmp_path):
    truth = blobs(GRID).values
    (volume,), said, warned = read(saved(tmp_path / "map.mrc", truth), mask_diameter_angstrom=80)
    assert (volume.grid, said, warned) == (GRID, [], [])
    torch.testing.assert_close(volume.values, truth, rtol=0, atol=1e-6 * float(truth.max()))


def test_pixel_size_and_box_are_fitted_to_the_particles_and_said(tmp_path):
    fine = ImageGrid.cubic(50, 3.0)
    (volume,), said, _ = read(saved(tmp_path / "map.mrc", blobs(fine).values, fine))
    assert volume.grid == GRID
    # Gaussians of σ = 6 Å have 1e-4 of their amplitude at the Nyquist frequency of 4 Å pixels
    torch.testing.assert_close(volume.values, blobs(GRID).values, rtol=0, atol=2e-3)
    assert said == ["The reference map.mrc, 50 px of 3 Å, was brought to the particles' 24 px of 4 Å."]


def test_a_map_that_is_no_cube_is_made_one_about_its_centre(tmp_path):
    values, grid = crop_or_pad(blobs(GRID).values, GRID, (24, 20, 22))
    (volume,), said, _ = read(saved(tmp_path / "map.mrc", values, grid))
    torch.testing.assert_close(volume.values, crop_or_pad(values, grid, 24)[0], rtol=0, atol=1e-2)
    assert "22 × 20 × 24 px of 4 Å" in said[0]


def test_level_of_the_solvent_becomes_zero_so_that_no_edge_arises(tmp_path):
    small, grid = crop_or_pad(blobs(GRID).values + 5, GRID, 20)
    (volume,), _, _ = read(saved(tmp_path / "map.mrc", small, grid))
    assert float(volume.values[0].abs().max()) == 0
    assert float(volume.values[3].abs().max()) < 0.2
    assert float(volume.values.max()) == pytest.approx(float(blobs(GRID).values.max()), abs=1e-2)


@pytest.mark.parametrize("given", [1, 2])
def test_each_half_has_its_own_map_of_a_pair(tmp_path, given):
    truth = blobs(GRID).values
    for half in (1, 2):
        saved(tmp_path / f"run_half{half}_class001_unfil.mrc", half * truth)
    volumes, _, warned = read(tmp_path / f"run_half{given}_class001_unfil.mrc")
    assert [round(float(volume.values.max() / truth.max()), 3) for volume in volumes] == [1.0, 2.0]
    assert warned == []


def test_a_missing_half_is_said_and_halves_of_two_boxes_are_refused(tmp_path):
    first = saved(tmp_path / "run_half1.mrc", blobs(GRID).values)
    volumes, _, warned = read(first)
    assert len(volumes) == 1
    assert "run_half2.mrc, is missing: both halves begin with run_half1.mrc" in warned[0]
    other = ImageGrid.cubic(26, 4.0)
    saved(tmp_path / "run_half2.mrc", blobs(other).values, other)
    with pytest.raises(InconsistentDataError, match="must have the box of"):
        read(first)


def test_density_of_a_model_is_made_about_its_centre_of_mass(tmp_path):
    atoms = [
        f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C  \n"
        for i, (x, y, z) in enumerate(np.random.default_rng(1).normal(50, 9, (80, 3)))
    ]
    path = tmp_path / "model.pdb"
    path.write_text("".join([*atoms, "END\n"]))
    (volume,), said, warned = read(path)
    assert volume.grid == GRID
    assert "density of" in said[0]
    assert "80 atoms" in said[0]
    extent, offset = extent_angstrom(volume)
    assert 30 < extent < 80
    assert offset < 4
    assert float(volume.values.max()) > 2 * float(-volume.values.min())
    assert warned == []
    _, _, warned = read(path, mask_diameter_angstrom=30)
    assert "cuts it: give a larger --mask-diameter." in warned[0]
    with pytest.raises(InputError, match=r"must fit into the particles' box of 32 Å; got about \d+ Å; give particles"):
        read(path, grid=ImageGrid.square(8, 4.0))


def test_a_missing_or_default_pixel_size_names_the_flag(tmp_path):
    path = without_pixel_size(saved(tmp_path / "map.mrc", blobs(GRID).values))
    with pytest.raises(InputError, match=r"--reference-pixel-size \(4 if it is on the particles' grid"):
        read(path)
    (volume,), _, warned = read(path, pixel_size_angstrom=4.0)
    assert float(volume.values.max()) > 0.9
    assert warned == []
    one = ImageGrid.cubic(24, 1.0)
    path = saved(tmp_path / "one.mrc", blobs(GRID).values, one)
    _, _, warned = read(path)
    assert "exactly 1 Å, which programs write where they know none" in warned[0]
    _, _, warned = read(path, pixel_size_angstrom=4.0)
    assert warned == []


def test_dark_density_is_refused_and_inverted_on_demand(tmp_path):
    truth = blobs(GRID).values
    path = saved(tmp_path / "map.mrc", 3 - truth)
    with pytest.raises(InputError, match="inverted contrast does; give --invert-reference"):
        read(path)
    (volume,), _, _ = read(path, invert=True)
    torch.testing.assert_close(volume.values, truth, rtol=0, atol=1e-5)


def test_a_flat_map_and_one_with_nan_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="must hold different values; got 2 everywhere"):
        read(saved(tmp_path / "flat.mrc", torch.full(GRID.shape, 2.0)))
    broken = blobs(GRID).values
    broken[3, 4, 5] = torch.nan
    with pytest.raises(InputError, match="must hold finite values"):
        read(saved(tmp_path / "broken.mrc", broken))
    with pytest.raises(InputError, match="name one that exists"):
        read(tmp_path / "nothing.mrc")


def test_a_particle_larger_than_the_box_is_refused_but_a_larger_box_alone_is_cut(tmp_path):
    large = ImageGrid.cubic(40, 4.0)
    path = saved(tmp_path / "map.mrc", blobs(large).values, large)
    (volume,), said, _ = read(path)
    torch.testing.assert_close(volume.values, blobs(GRID).values, rtol=0, atol=1e-5)
    assert len(said) == 1
    with pytest.raises(
        InputError, match=r"box of 48 Å; got about \d+ Å; .*true pixel size with --reference-pixel-size"
    ):
        read(path, grid=ImageGrid.square(12, 4.0))


def test_extent_is_compared_with_the_mask_and_the_centre_of_the_box(tmp_path):
    path = saved(tmp_path / "map.mrc", blobs(GRID).values)
    assert "cuts it" in read(path, mask_diameter_angstrom=50)[2][0]
    assert "less than half of the mask of 200 Å" in read(path, mask_diameter_angstrom=200)[2][0]
    moved = saved(tmp_path / "moved.mrc", torch.roll(blobs(GRID).values, 4, 0))
    warned = read(moved)[2]
    assert len(warned) == 1
    assert "Å beside the centre of its box" in warned[0]


def test_extent_is_that_of_a_sphere():
    grid = ImageGrid.cubic(32, 4.0)
    extent, offset = extent_angstrom(sphere_mask(grid, radius_angstrom=40, edge_angstrom=4))
    # the low-pass at 20 Å widens the sphere by a few Å, and steps are of 4 Å
    assert extent == pytest.approx(84, abs=10)
    assert offset < 0.1


def test_pixels_too_large_for_the_low_pass_are_said(tmp_path):
    values, grid = rescale_to_pixel_size(blobs(GRID, sigma_angstrom=9.0).values, GRID, 10.0, 10)
    _, _, warned = read(saved(tmp_path / "map.mrc", values, grid), low_pass=15.0)
    assert any("nothing finer than 20 Å" in text for text in warned)


# masks


def test_a_mask_on_the_grid_is_read_from_its_file_or_its_folder_and_without_a_pixel_size(tmp_path):
    mask = sphere_mask(GRID, radius_angstrom=30, edge_angstrom=8)
    path = saved(tmp_path / "mask.mrc", mask.values)
    for given in (path, tmp_path, without_pixel_size(path)):
        found = read_mask(given, PARTICLES)
        assert found.grid == GRID
        torch.testing.assert_close(found.values, mask.values)


def test_a_mask_of_another_grid_or_range_is_refused_with_the_command_that_mends_it(tmp_path):
    other = ImageGrid.cubic(20, 4.0)
    path = saved(tmp_path / "small.mrc", sphere_mask(other, radius_angstrom=30, edge_angstrom=8).values, other)
    with pytest.raises(
        InputError, match=r"24 px of 4 Å; got 20 px of 4 Å; use `halfmap volume resample .*--box 24`\.$"
    ):
        read_mask(path, PARTICLES)
    with pytest.raises(
        InputError, match=r"got 24 px of 3 Å; .* with --header-pixel-size 4 if only its header is wrong"
    ):
        read_mask(saved(tmp_path / "a.mrc", blobs(GRID).values, ImageGrid.cubic(24, 3.0)), PARTICLES)
    with pytest.raises(InputError, match="values from 0 to 1; got 0 to 2"):
        read_mask(saved(tmp_path / "b.mrc", 2 * (blobs(GRID).values > 0.5)), PARTICLES)
    with pytest.raises(InputError, match=r"folder of a job with a mask[.]mrc"):
        read_mask(tmp_path, PARTICLES)
