"""`halfmap mask create`: masks from maps, combined, and refused."""

import pytest
import torch

import halfmap
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.postprocessing.masks import mask_from_map
from halfmap.postprocessing.params import MaskParams
from support.half_maps import particle, sphere_mask, white
from support.shared_data import shared_data

GRID = ImageGrid.cubic(40, 3.0)


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def a_map(project):
    volume = Volume(values=(particle(GRID, radius_angstrom=30) + 0.3 * white(GRID, 1)).float(), grid=GRID)
    mrc.write_volume(project / "map.mrc", volume)
    return project / "map.mrc"


def test_mask_is_that_of_the_room_and_the_page_shows_it(a_map):
    result = halfmap.mask_create(volume=a_map)
    assert result.folder.parent.name == "MaskCreate"
    assert result.main_output.name == "mask.mrc"
    expected, threshold = mask_from_map(mrc.read_volume(a_map), MaskParams())
    assert torch.equal(mrc.read_volume(result.main_output).values, expected.values)
    assert f"Threshold {threshold:.4g}, found" in (result.folder / "run.log").read_text()
    page = (result.folder / "report.html").read_text()
    assert "outline of the mask" in page
    assert page.count("data:image/png") >= 15


def test_settings_reach_the_mask(a_map):
    made = halfmap.mask_create(
        volume=a_map, low_pass_angstrom=20, threshold=0.4, extend="-2px", soft_edge="12", invert=True
    )
    params = MaskParams(
        low_pass_angstrom=20,
        threshold=0.4,
        extend=halfmap.Length(-2, in_pixels=True),
        soft_edge=halfmap.Length(12.0),
    )
    expected, _ = mask_from_map(mrc.read_volume(a_map), params)
    written = mrc.read_volume(made.main_output).values
    assert torch.allclose(written, 1 - expected.values, atol=1e-7)


def test_a_low_pass_that_does_nothing_is_told(a_map):
    made = halfmap.mask_create(volume=a_map, low_pass_angstrom=5)
    assert "of the map not low-passed, for 5 Å is finer than its 6 Å" in (made.folder / "run.log").read_text()


def test_masks_are_combined(a_map, project):
    spheres = {}
    for name, radius in (("small", 12.0), ("large", 50.0)):
        spheres[name] = sphere_mask(GRID, radius_angstrom=radius, edge_angstrom=6).values
        mrc.write_volume(project / f"{name}.mrc", Volume(values=spheres[name], grid=GRID))
    plain = mrc.read_volume(halfmap.mask_create(volume=a_map).main_output).values
    for flag, name, expected in (
        ("union_with", "large", torch.maximum(plain, spheres["large"])),
        ("intersect_with", "small", torch.minimum(plain, spheres["small"])),
        ("subtract", "small", torch.minimum(plain, 1 - spheres["small"])),
    ):
        made = halfmap.mask_create(volume=a_map, **{flag: project / f"{name}.mrc"})
        assert torch.allclose(mrc.read_volume(made.main_output).values, expected, atol=1e-6)


@pytest.mark.oracle
def test_command_makes_relion_s_mask(project):
    folder = shared_data("oracles/relion5_mask")
    made = halfmap.mask_create(volume=folder / "map.mrc", threshold=0.03, extend="3px", soft_edge="4px", min_island=0)
    away = mrc.read_volume(made.main_output).values - mrc.read_volume(folder / "mask.mrc").values
    assert away.abs().max() < 1e-6


def test_maps_and_masks_that_do_not_fit_are_refused(a_map, project):
    with pytest.raises(InputError, match="choose one between"):
        halfmap.mask_create(volume=a_map, threshold=100.0)
    mrc.write_volume(project / "other.mrc", sphere_mask(ImageGrid.cubic(38, 3.0), radius_angstrom=30, edge_angstrom=6))
    with pytest.raises(InconsistentDataError, match=r"other\.mrc must have the box of .*map\.mrc, 40 × 40 × 40"):
        halfmap.mask_create(volume=a_map, subtract=project / "other.mrc")
    with pytest.raises(InputError, match="≥ 0"):
        halfmap.mask_create(volume=a_map, soft_edge="-2px")
    mrc.write_volume(project / "all.mrc", sphere_mask(GRID, radius_angstrom=200, edge_angstrom=6))
    with pytest.raises(InputError, match=r"hold a voxel above 0\.5; got none after masks were combined"):
        halfmap.mask_create(volume=a_map, subtract=project / "all.mrc")


def test_a_mask_of_a_shape_to_be_doubted_is_said_in_the_log_and_on_the_page(a_map):
    for edge, n_said in (("6px", 0), ("0px", 1)):
        folder = halfmap.mask_create(volume=a_map, soft_edge=edge).folder
        for name in ("run.log", "report.html"):
            assert (folder / name).read_text().count("Mask has a hard edge.") == n_said


def test_a_dark_map_is_said_and_a_bright_one_is_not(a_map, project):
    volume = mrc.read_volume(a_map)
    mrc.write_volume(project / "dark.mrc", Volume(values=-volume.values, grid=GRID))
    for name, n_said in (("map.mrc", 0), ("dark.mrc", 1)):
        log = (halfmap.mask_create(volume=project / name).folder / "run.log").read_text()
        assert log.count("as one of inverted contrast does") == n_said
