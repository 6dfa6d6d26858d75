"""`halfmap volume local-resolution`: its maps, its page, its refusals."""

import pytest
import torch

import halfmap
from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.postprocessing.local_resolution import local_resolution
from halfmap.postprocessing.params import LocalResolutionParams
from support.half_maps import half_maps, particle, sphere_mask

GRID = ImageGrid.cubic(40, 2.5)


@pytest.fixture
def source(tmp_path, monkeypatch):
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "Refine3D"
    folder.mkdir()
    halves = half_maps(particle(GRID, radius_angstrom=32, b_factor_angstrom2=60.0), GRID, noise=0.2)
    for number, half in enumerate(halves, start=1):
        mrc.write_volume(folder / f"run_half{number}_class001_unfil.mrc", half)
    mrc.write_volume(folder / "mask.mrc", sphere_mask(GRID, radius_angstrom=34, edge_angstrom=8))
    return folder


def test_job_writes_the_resolution_and_the_filtered_map(source):
    result = halfmap.volume_local_resolution(half1=source, mask=source, step_angstrom=20)
    assert result.folder.parent.name == "LocalRes"
    halves = [mrc.read_volume(source / f"run_half{n}_class001_unfil.mrc") for n in (1, 2)]
    mask = mrc.read_volume(source / "mask.mrc")
    expected = local_resolution(*halves, mask, LocalResolutionParams(step_angstrom=20))
    written = mrc.read_volume(result.main_output).values
    assert torch.allclose(written, expected.resolution.values, rtol=1e-6)
    filtered = mrc.read_volume(result.folder / "locally_filtered.mrc")
    assert filtered.grid == GRID
    assert float(filtered.values.std()) > 0
    assert f"over {len(expected.points_pixel)} points" in (result.folder / "run.log").read_text()
    page = (result.folder / "report.html").read_text()
    assert "Map coloured by local resolution" in page
    assert page.count("data:image/png") >= 10


def test_without_a_mask_one_is_made(source):
    result = halfmap.volume_local_resolution(half1=source, step_angstrom=30, b_factor_angstrom2=-50)
    assert (result.folder / "mask.mrc").exists()
    assert "No mask was given" in (result.folder / "run.log").read_text()


def test_one_map_twice_is_said_in_the_log_and_on_the_page(source):
    first = mrc.read_volume(source / "run_half1_class001_unfil.mrc")
    other = Volume(values=1.5 * first.values, grid=GRID)
    mrc.write_volume(source / "run_half2_class001_unfil.mrc", other)
    folder = halfmap.volume_local_resolution(half1=source, mask=source, step_angstrom=40).folder
    for name in ("run.log", "report.html"):
        assert "Half maps are one map." in (folder / name).read_text()


def test_settings_and_memory_that_cannot_be_met_are_refused(source):
    with pytest.raises(InputError, match="--worst-resolution must be a lower resolution than --randomise-from; got 20"):
        halfmap.volume_local_resolution(half1=source, worst_resolution_angstrom=20)
    with pytest.raises(InputError, match=r"local resolution must be at most the .* of --memory"):
        halfmap.volume_local_resolution(half1=source, memory="1MiB")
