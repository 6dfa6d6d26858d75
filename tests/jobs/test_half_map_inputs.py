"""Half maps, masks and MTFs as they are named: found or refused with what was there."""

import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.jobs import half_map_inputs as inputs
from support.half_maps import half_maps, particle, sphere_mask
from support.shared_data import shared_data

GRID = ImageGrid.cubic(16, 2.0)


def files(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc"),
        ("cryosparc_P1_J2_half_map_A.mrc", "cryosparc_P1_J2_half_map_B.mrc"),
        ("emd_1234_half_map_1.map", "emd_1234_half_map_2.map"),
        ("J7_map_half_A.mrc", "J7_map_half_B.mrc"),
        ("half1_of_HALF1.mrc", "half1_of_HALF2.mrc"),
    ],
)
def test_other_half_is_found_by_its_name_whichever_was_given(tmp_path, first, second):
    files(tmp_path, first, second)
    expected = (tmp_path / first, tmp_path / second)
    assert inputs.find_halves(tmp_path / first, None) == expected
    assert inputs.find_halves(tmp_path / second, None) == expected


def test_given_second_half_is_taken_as_it_is(tmp_path):
    files(tmp_path, "a.mrc", "b.mrc")
    assert inputs.find_halves(tmp_path / "a.mrc", tmp_path / "b.mrc") == (tmp_path / "a.mrc", tmp_path / "b.mrc")


def test_folder_of_a_refinement_stands_for_its_unfiltered_halves(tmp_path):
    files(
        tmp_path,
        "run_class001.mrc",
        "run_half1_class001_unfil.mrc",
        "run_half2_class001_unfil.mrc",
        "run_it012_half1_class001.mrc",
        "run_it012_half2_class001.mrc",
        "run_half1_class001.star",
    )
    expected = (tmp_path / "run_half1_class001_unfil.mrc", tmp_path / "run_half2_class001_unfil.mrc")
    assert inputs.find_halves(tmp_path, None) == expected


def test_main_output_of_a_refinement_stands_for_its_unfiltered_halves(tmp_path):
    names = ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc", "postprocess.mrc")
    files(tmp_path, *names)
    assert inputs.find_halves(tmp_path / "postprocess.mrc", None) == (tmp_path / names[0], tmp_path / names[1])


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        (["map.mrc"], "map.mrc", "must say half1 or half2 where .* got map.mrc; give the other with --half2"),
        (["run_half1.mrc"], "run_half1.mrc", "must lie beside it as run_half2.mrc; got no such file"),
        (["halfway12.mrc"], "halfway12.mrc", "must say half1 or half2"),
        (["run_class001.mrc"], ".", "one finished half map 1.* got run_class001.mrc"),
        (["a_half1.mrc", "b_half1.mrc"], ".", "got a_half1.mrc, b_half1.mrc; name the file"),
        ([], ".", "got no map"),
    ],
)
def test_halves_that_cannot_be_told_are_refused(tmp_path, names, given, said):
    files(tmp_path, *names)
    with pytest.raises(InputError, match=said):
        inputs.find_halves(tmp_path / given, None)


def test_halves_of_different_pixel_sizes_are_refused_by_name(tmp_path):
    first, second = half_maps(particle(GRID, radius_angstrom=10), GRID, noise=0.5)
    mrc.write_volume(tmp_path / "half1.mrc", first)
    mrc.write_volume(tmp_path / "half2.mrc", Volume(values=second.values, grid=ImageGrid.cubic(16, 2.2)))
    paths = (tmp_path / "half1.mrc", tmp_path / "half2.mrc")
    with pytest.raises(InconsistentDataError, match=r"half2\.mrc must have the pixel size of .*half1\.mrc, 2 Å"):
        inputs.read_halves(*paths, None)
    assert [half.grid.pixel_size_angstrom for half in inputs.read_halves(*paths, 2.1)] == [2.1, 2.1]


def test_masks_are_read_from_files_and_folders_and_checked(tmp_path):
    like = half_maps(particle(GRID, radius_angstrom=10), GRID, noise=0.5)[0]
    mask = sphere_mask(GRID, radius_angstrom=10, edge_angstrom=4)
    mrc.write_volume(tmp_path / "mask.mrc", mask)
    for given in (tmp_path, tmp_path / "mask.mrc"):
        assert torch.equal(inputs.read_mask(given, like, tmp_path / "half1.mrc", None).values, mask.values)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"folder of a job with a mask\.mrc; got"):
        inputs.read_mask(tmp_path / "empty", like, tmp_path / "half1.mrc", None)
    other = tmp_path / "other.mrc"
    mrc.write_volume(other, sphere_mask(ImageGrid.cubic(18, 2.0), radius_angstrom=10, edge_angstrom=4))
    with pytest.raises(InconsistentDataError, match=r"other\.mrc must have the box of .*half1\.mrc"):
        inputs.read_mask(other, like, tmp_path / "half1.mrc", None)
    mrc.write_volume(other, Volume(values=mask.values * 4, grid=GRID))
    with pytest.raises(InputError, match=r"other\.mrc must hold values from 0 to 1; got 0 to 4"):
        inputs.read_mask(other, like, tmp_path / "half1.mrc", None)


def test_mtf_tables_of_detectors_are_read(tmp_path):
    for path in sorted(shared_data("star/relion_mtf").glob("*.star")):
        curve = inputs.read_mtf(path)
        assert float(curve.value[0]) == pytest.approx(1, abs=1e-3)
        assert float(curve.frequency_per_pixel[-1]) >= 0.49
    table = tmp_path / "a.star"
    table.write_text("data_\nloop_\n_rlnMtfValue\n1\n0.5\n")
    with pytest.raises(FormatError, match="_rlnResolutionInversePixel and _rlnMtfValue; found none"):
        inputs.read_mtf(table)
