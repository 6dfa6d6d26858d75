"""`halfmap volume denoise`: its maps, its page, its refusals."""

import pytest
import torch

import halfmap
from halfmap.data.volumes import Volume
from halfmap.denoising.denoise import Denoiser, denoised_by
from halfmap.errors import InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc, states
from support.half_maps import half_maps, particle, sphere_mask, white

GRID = ImageGrid.cubic(32, 3.0)


@pytest.fixture
def source(tmp_path, monkeypatch):
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "Refine3D"
    folder.mkdir()
    truth = particle(GRID, radius_angstrom=30, b_factor_angstrom2=120.0)
    for number, half in enumerate(half_maps(truth, GRID, noise=0.8), start=1):
        mrc.write_volume(folder / f"run_half{number}_class001_unfil.mrc", half)
    mrc.write_volume(folder / "mask.mrc", sphere_mask(GRID, radius_angstrom=34, edge_angstrom=8))
    (first,) = half_maps(truth, GRID, noise=0.0)[:1]
    mrc.write_volume(tmp_path / "truth.mrc", first)
    return folder


def test_job_writes_denoised_maps_and_what_was_learned(source):
    result = halfmap.volume_denoise(
        half1=source, mask=source, truth="truth.mrc", to_angstrom=8.0, b_factor_angstrom2=0.0
    )
    folder = result.folder
    assert folder.parent.name == "Denoise"
    halves = [mrc.read_volume(source / f"run_half{n}_class001_unfil.mrc") for n in (1, 2)]
    denoiser = states.load(folder / "denoiser.safetensors", Denoiser)
    again = [denoised_by(denoiser, half).values for half in halves]
    for n, expected in enumerate(again, 1):
        assert torch.equal(mrc.read_volume(folder / f"denoised_half{n}.mrc").values, expected)
    written = mrc.read_volume(result.main_output)
    # a B-factor of 0 cuts off nothing but the corners, which are empty
    assert torch.allclose(written.values, (again[0] + again[1]) / 2, atol=1e-5)
    page = (folder / "report.html").read_text()
    for text in ("With the truth", "measures no resolution", "Before, weighted by the FSC", "Learning"):
        assert text in page
    assert f"Denoised to {denoiser.to_angstrom:.2f} Å" in (folder / "run.log").read_text()


def test_halves_of_noise_are_said_to_hardly_agree(source):
    for number in (1, 2):
        noise = Volume(values=white(GRID, number).float(), grid=GRID)
        mrc.write_volume(source / f"run_half{number}_class001_unfil.mrc", noise)
    folder = halfmap.volume_denoise(half1=source, mask=source, to_angstrom=12.0).folder
    for name in ("run.log", "report.html"):
        assert "Half maps hardly agree." in (folder / name).read_text()


def test_maps_that_cannot_be_compared_and_memory_that_is_too_small_are_refused(source):
    mrc.write_volume("small.mrc", sphere_mask(ImageGrid.cubic(20, 3.0), radius_angstrom=20, edge_angstrom=4))
    with pytest.raises(InconsistentDataError, match=r"small.mrc must have the box"):
        halfmap.volume_denoise(half1=source, truth="small.mrc")
    with pytest.raises(InputError, match=r"memory for denoising must be at most the .* of --memory"):
        halfmap.volume_denoise(half1=source, mask=source, memory="1MiB")
    with pytest.raises(InputError, match="between 6 Å, its Nyquist frequency, and 16 Å"):
        halfmap.volume_denoise(half1=source, mask=source, to_angstrom=3.0)
