"""`halfmap volume …`: what the maps become, what the tables say, what is refused."""

import json
import math

import numpy as np
import pytest
import torch

import halfmap
from halfmap import keyed_random
from halfmap.data.volumes import Volume
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.fourier import filters, shells
from halfmap.grid import ImageGrid
from halfmap.io import mrc, star
from support.shared_data import shared_data


@pytest.fixture(autouse=True)
def _in_a_project(tmp_path, monkeypatch):
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)


def blob(grid, *, centre=(0.0, 0.0, 0.0), sigma_angstrom=8.0):
    away = grid.positions() - torch.tensor(centre, dtype=torch.float64)
    return Volume(values=torch.exp(-(away**2).sum(-1) / (2 * sigma_angstrom**2)).float(), grid=grid)


def noisy(grid, number, *, strength=0.02):
    values = blob(grid).values
    noise = keyed_random.normal(7, "noise", np.array([number]), size=grid.shape)[0]
    return Volume(values=values + strength * torch.from_numpy(noise).float(), grid=grid)


def written(path, volume):
    mrc.write_volume(path, volume)
    return path


@pytest.fixture
def a_map(tmp_path):
    return written(tmp_path / "map.mrc", blob(ImageGrid.cubic(32, 3.54), centre=(9.0, -5.0, 2.0)))


# each command does what it says, and leaves a page


@pytest.mark.parametrize("box_pixel", [None, 64, 63])
def test_resampling_gives_exactly_the_pixel_size_and_box_asked_for(a_map, box_pixel):
    result = halfmap.volume_resample(volume=a_map, pixel_size_angstrom=1.244, box_pixel=box_pixel)
    assert result.folder.parent.name == "Volume"
    after = mrc.read_volume(result.main_output)
    assert after.grid == ImageGrid.cubic(box_pixel or 92, 1.244)  # 32 × 3.54 / 1.244 = 91.06, up to even
    expected = blob(after.grid, centre=(9.0, -5.0, 2.0)).values
    inside = after.grid.positions().abs().amax(-1) < 15 * 3.54
    assert (after.values - expected)[inside].abs().max() < 2e-3  # the blob is not quite band-limited


def test_resampling_to_the_tutorial_s_numbers(tmp_path):
    source = written(tmp_path / "map.mrc", blob(ImageGrid.cubic(64, 3.54)))
    result = halfmap.volume_resample(volume=source, pixel_size_angstrom=1.244, box_pixel=256)
    assert mrc.read_header(result.main_output).pixel_size_angstrom == 1.244
    assert mrc.read_header(result.main_output).shape == (256, 256, 256)


def test_resampling_like_another_map_takes_its_grid(a_map, tmp_path):
    model = written(tmp_path / "model.mrc", blob(ImageGrid.cubic(41, 2.5)))
    assert mrc.read_volume(halfmap.volume_resample(volume=a_map, like=model).main_output).grid == ImageGrid.cubic(
        41, 2.5
    )


def test_cropping_cuts_and_surrounds_about_the_centre_voxel(a_map):
    before = mrc.read_volume(a_map).values
    cut = mrc.read_volume(halfmap.volume_crop(volume=a_map, box_pixel=20).main_output)
    assert torch.equal(cut.values, before[6:26, 6:26, 6:26])
    wide = mrc.read_volume(halfmap.volume_crop(volume=a_map, box_pixel=40, fill=-1.0).main_output)
    assert torch.equal(wide.values[4:36, 4:36, 4:36], before)
    assert (wide.values[:4] == -1).all()


def test_filters_multiply_the_transform(a_map):
    result = halfmap.volume_filter(volume=a_map, low_pass_angstrom=15, high_pass_angstrom=60, b_factor_angstrom2=-80)
    before = mrc.read_volume(a_map)
    grid = before.grid
    multiplier = filters.low_pass(grid, 15) * filters.high_pass(grid, 60) * filters.b_factor(grid, -80)
    expected = filters.apply_filter(before.values, grid, multiplier)
    assert torch.allclose(mrc.read_volume(result.main_output).values, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 24, 24), (21, 24, 26)])
def test_flipped_map_is_the_mirror_image_of_the_other_contrast_in_place(tmp_path, shape):
    grid = ImageGrid(shape=shape, pixel_size_angstrom=3.0)
    path = written(tmp_path / "map.mrc", blob(grid, centre=(9.0, -6.0, 3.0)))
    mirrored = mrc.read_volume(halfmap.volume_flip(volume=path, hand=True).main_output)
    assert mirrored.grid == grid
    inside = (slice(1, None),) * 3  # of even sides the first voxel has no mirror image
    expected = blob(grid, centre=(-9.0, 6.0, -3.0)).values
    assert torch.allclose(mirrored.values[inside], expected[inside], atol=1e-6)
    dark = mrc.read_volume(halfmap.volume_flip(volume=path, hand=True, contrast=True).main_output)
    assert torch.equal(dark.values, -mirrored.values)


def test_symmetrised_map_equals_itself_turned(a_map):
    result = halfmap.volume_symmetrise(volume=a_map, symmetry="C2")
    values = mrc.read_volume(result.main_output).values[1:, 1:, 1:]
    assert torch.allclose(values, values.flip(1, 2), atol=1e-4)
    assert values.max() == pytest.approx(0.5, abs=0.02)  # two half blobs


def test_half_precision_is_written_on_request(a_map):
    assert mrc.read_header(halfmap.volume_crop(volume=a_map, box_pixel=20, float16=True).main_output).mode == 12


def test_every_map_command_leaves_a_page_with_slices(a_map):
    folders = [
        halfmap.volume_crop(volume=a_map, box_pixel=20).folder,
        halfmap.volume_filter(volume=a_map, low_pass_angstrom=20).folder,
        halfmap.volume_fsc(volumes=(a_map, a_map)).folder,
    ]
    for folder in folders:
        page = (folder / "report.html").read_text()
        assert page.count("data:image/png") >= 12
        assert json.loads((folder / "job.json").read_text())["main_output"]


# correlation


def test_fsc_table_holds_the_curves_and_names_crossings_for_what_they_are(tmp_path):
    grid = ImageGrid.cubic(32, 3.0)
    paths = [written(tmp_path / f"half{i}.mrc", noisy(grid, i)) for i in (1, 2)]
    mask = blob(grid, sigma_angstrom=14)
    mask_path = written(tmp_path / "mask.mrc", mask)
    result = halfmap.volume_fsc(volumes=tuple(paths), mask=mask_path)
    table = star.read(result.main_output)["fsc"]
    first, second = (noisy(grid, i).values for i in (1, 2))
    unmasked = shells.fsc(grid.rfft(first), grid.rfft(second), grid)
    masked = shells.fsc(grid.rfft(first * mask.values), grid.rfft(second * mask.values), grid)
    assert np.allclose(table.numbers("rlnFourierShellCorrelationUnmaskedMaps"), unmasked, atol=1e-6)
    assert np.allclose(table.numbers("rlnFourierShellCorrelationMaskedMaps"), masked, atol=1e-6)
    assert np.allclose(table.numbers("rlnAngstromResolution")[1:], 32 * 3.0 / np.arange(1, 17), atol=1e-5)
    crossings = star.read(result.main_output)["crossings"]
    assert crossings.text("halfmapCurve").tolist() == ["unmasked", "unmasked", "masked", "masked"]
    assert crossings.numbers("halfmapFscThreshold").tolist() == [0.5, 0.143, 0.5, 0.143]
    assert crossings.numbers("halfmapAngstromResolution")[1] == pytest.approx(
        shells.resolution_at_threshold(unmasked, grid, 0.143), abs=1e-3
    )
    page = (result.folder / "report.html").read_text()
    assert "FSC = 0.143, unmasked" in page
    assert "only if the two maps are independent half maps" in page
    assert "not corrected" in page


def test_fsc_of_a_map_with_itself_never_falls(a_map):
    crossings = star.read(halfmap.volume_fsc(volumes=(a_map, a_map)).main_output)["crossings"]
    assert crossings.integers("halfmapIsReached").tolist() == [0, 0]
    assert crossings.numbers("halfmapAngstromResolution")[0] == pytest.approx(2 * 3.54)


def fsc_over_the_stored_half(first, second):
    """The correlation as RELION sums it: over the half transform as stored, so that the plane kx = 0 counts twice."""
    transforms = [np.fft.rfftn(values.numpy().astype(np.float64)) for values in (first, second)]
    side = first.shape[0]
    k = np.fft.fftfreq(side, 1 / side)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(side // 2 + 1) ** 2)).astype(int)
    cross, one, other = (
        np.bincount(shell.ravel(), values.ravel())[: side // 2 + 1]
        for values in ((transforms[0] * transforms[1].conj()).real, *(np.abs(part) ** 2 for part in transforms))
    )
    return cross / np.sqrt(one * other)


@pytest.mark.oracle
def test_fsc_of_real_half_maps_agrees_with_relion():
    folder = shared_data("oracles/relion5_postprocess")
    paths = tuple(folder / f"run_half{i}_class001_unfil.mrc" for i in (1, 2))
    ours = star.read(halfmap.volume_fsc(volumes=paths, mask=folder / "mask.mrc").main_output)["fsc"]
    theirs = star.read(folder / "postprocess.star")["fsc"]
    halves = [mrc.read_volume(path).values for path in paths]
    mask = mrc.read_volume(folder / "mask.mrc").values
    for label, weight in (("Unmasked", torch.ones(())), ("Masked", mask)):
        label = f"rlnFourierShellCorrelation{label}Maps"
        expected = theirs.numbers(label)
        # RELION's numbers from its own way of summing: single precision
        assert np.abs(fsc_over_the_stored_half(*(half * weight for half in halves)) - expected).max() < 1e-4
        # ours counts each coefficient once: apart by the noise of one plane's double weight
        assert np.abs(ours.numbers(label) - expected).max() < 0.02


# description


def test_info_tells_header_and_statistics(a_map):
    lines = halfmap.volume_info(volumes=(a_map, a_map))
    text = "\n".join(lines)
    values = mrc.read_volume(a_map).values.double()
    assert "sides        32 × 32 × 32" in text
    assert "mode         2 (float32, little-endian)" in text
    assert "pixel size   3.54 × 3.54 × 3.54 Å" in text
    assert f"mean         {float(values.mean()):.6g}" in text
    assert f"deviation    {float(values.std(correction=0)):.6g}" in text
    assert text.count(str(a_map)) == 2


def test_info_counts_what_is_not_finite_and_measures_the_rest(tmp_path):
    image = np.ones((6, 8), np.float32)
    image[0, 0], image[1, 1], image[2, 2] = np.nan, np.inf, 3.0
    mrc.write_image(tmp_path / "a.mrc", image, ImageGrid(shape=(6, 8), pixel_size_angstrom=2.0))
    text = "\n".join(halfmap.volume_info(volumes=(tmp_path / "a.mrc",)))
    assert "not finite   2 values" in text
    assert "maximum      3" in text


def test_info_reads_odd_real_headers():
    text = "\n".join(halfmap.volume_info(volumes=(shared_data("maps/emd_3001.map"),)))
    assert "axis order   3, 1, 2" in text
    assert "start        -21, -12, 0" in text
    text = "\n".join(halfmap.volume_info(volumes=(shared_data("maps/ribosome70s_65.mrc"),)))
    assert "pixel size   not in the header" in text


# refusals


def test_maps_of_different_boxes_or_pixel_sizes_are_not_correlated(a_map, tmp_path):
    small = written(tmp_path / "small.mrc", blob(ImageGrid.cubic(30, 3.54)))
    with pytest.raises(InconsistentDataError, match=r"box of .*32 × 32 × 32 voxels; got 30 × 30 × 30; use"):
        halfmap.volume_fsc(volumes=(a_map, small))
    other = written(tmp_path / "other.mrc", blob(ImageGrid.cubic(32, 3.6)))
    with pytest.raises(InconsistentDataError, match=r"pixel size of .*3\.54 Å; got 3\.6 Å; use"):
        halfmap.volume_fsc(volumes=(a_map, other))
    mask = written(tmp_path / "mask.mrc", blob(ImageGrid.cubic(32, 1.0)))  # its header is as wrong as that of the map
    stated = {"header_pixel_size_angstrom": 3.54, "mask": mask}
    assert halfmap.volume_fsc(volumes=(a_map, other), **stated).main_output.exists()
    with pytest.raises(InputError, match="two maps; got 1"):
        halfmap.volume_fsc(volumes=(a_map,))


def test_mask_outside_its_range_or_empty_is_refused(a_map, tmp_path):
    grid = ImageGrid.cubic(32, 3.54)
    for values in (torch.zeros(grid.shape), torch.full(grid.shape, 7.0)):
        mask = written(tmp_path / "mask.mrc", Volume(values=values, grid=grid))
        with pytest.raises(InputError, match=r"values (from 0 to 1|above 0\.5)"):
            halfmap.volume_fsc(volumes=(a_map, a_map), mask=mask)


def test_real_maps_that_are_no_cubic_grid_are_refused_with_the_reason():
    with pytest.raises(FormatError, match=r"emd_3001\.map: expected a cell with right angles"):
        halfmap.volume_crop(volume=shared_data("maps/emd_3001.map"), box_pixel=20)
    with pytest.raises(InputError, match="got none in its header; give it with --header-pixel-size"):
        halfmap.volume_crop(volume=shared_data("maps/ribosome70s_65.mrc"), box_pixel=20)


def test_unequal_sides_are_cropped_but_not_symmetrised(tmp_path):
    path = written(tmp_path / "long.mrc", blob(ImageGrid(shape=(20, 24, 30), pixel_size_angstrom=3.0)))
    with pytest.raises(InputError, match="three equal sides to be symmetrised; got 30 × 24 × 20"):
        halfmap.volume_symmetrise(volume=path, symmetry="C2")
    assert mrc.read_header(halfmap.volume_crop(volume=path, box_pixel=24).main_output).shape == (24, 24, 24)
    result = halfmap.volume_resample(volume=path, pixel_size_angstrom=1.5)
    assert mrc.read_header(result.main_output).shape == (40, 48, 60)


@pytest.mark.parametrize(
    ("command", "values", "message"),
    [
        ("volume_filter", {}, "A filter must be given"),
        ("volume_flip", {}, "use --hand, --contrast or both"),
        ("volume_filter", {"low_pass_angstrom": 20, "high_pass_angstrom": 10}, "got 20 and 10 Å; exchange"),
        ("volume_resample", {}, "--pixel-size or --like"),
        ("volume_resample", {"like": "map.mrc", "box_pixel": 64}, "must not go with --like"),
        ("volume_symmetrise", {"symmetry": "Q3"}, "C1, C2"),
        ("volume_crop", {"box_pixel": 2}, "≥ 4"),
    ],
)
def test_settings_that_make_no_sense_are_refused(a_map, command, values, message):
    with pytest.raises(InputError, match=message):
        getattr(halfmap, command)(volume=a_map, **values)


def test_map_with_nan_is_refused_and_the_voxel_named(tmp_path):
    volume = blob(ImageGrid.cubic(12, 2.0))
    volume.values[1, 2, 3] = math.nan
    path = written(tmp_path / "nan.mrc", volume)
    with pytest.raises(
        InputError, match=r"1 of 1728 values are NaN or infinite, the first at \(z, y, x\) = \(1, 2, 3\)"
    ):
        halfmap.volume_crop(volume=path, box_pixel=8)


def test_truncated_map_names_the_bytes(a_map):
    a_map.write_bytes(a_map.read_bytes()[:-8])
    with pytest.raises(FormatError, match="truncated"):
        halfmap.volume_filter(volume=a_map, low_pass_angstrom=20)


def test_aligned_map_has_its_axes_where_the_group_has_them(tmp_path):
    grid = ImageGrid.cubic(32, 4.0)
    parts = [blob(grid, centre=centre).values for centre in ((20, 14, 8), (0, 0, 26), (24, -10, 16))]
    map_path = written(tmp_path / "two_fold.mrc", Volume(values=sum(parts), grid=grid))
    symmetric = halfmap.volume_symmetrise(volume=map_path, symmetry="C2")
    moved = mrc.read_volume(symmetric.main_output).values.permute(1, 2, 0).contiguous()  # the axis is y now
    path = written(tmp_path / "turned.mrc", Volume(values=moved, grid=grid))
    result = halfmap.volume_symmetry_align(volume=path, symmetry="C2")
    after = mrc.read_volume(result.main_output).values
    turned = torch.roll(torch.flip(after, (1, 2)), (1, 1), (1, 2))  # half a turn about z
    assert float((after * turned).sum() / after.square().sum()) > 0.99
    assert "Correlation of the aligned map" in (result.folder / "run.log").read_text()
