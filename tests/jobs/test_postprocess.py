"""`halfmap postprocess`: its files, its words, its page, and RELION's numbers."""

import json
import math
import shutil
import xml.etree.ElementTree

import numpy as np
import pytest
import starfile
import torch

import halfmap
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc, star
from halfmap.jobs import half_map_inputs, postprocess_report
from halfmap.postprocessing.params import PostprocessParams
from halfmap.postprocessing.postprocess import postprocess
from halfmap.postprocessing.sharpening import MtfCurve
from support.commands import halfmap as run_command
from support.half_maps import half_maps, particle, sphere_mask
from support.shared_data import shared_data

GRID = ImageGrid.cubic(48, 1.8)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A refinement's folder with both half maps, and a mask."""
    folder = tmp_path_factory.mktemp("halves")
    halves = half_maps(particle(GRID, radius_angstrom=27, b_factor_angstrom2=90.0), GRID, noise=0.8)
    for number, half in enumerate(halves, start=1):
        mrc.write_volume(folder / f"run_half{number}_class001_unfil.mrc", half)
    mrc.write_volume(folder / "mask.mrc", sphere_mask(GRID, radius_angstrom=30, edge_angstrom=9))
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_job_leaves_relion_s_files_and_a_page(source, project):
    result = halfmap.postprocess(half1=source, mask=source / "mask.mrc", molecular_mass_kilodalton=60.0)
    folder = result.folder
    assert folder.parent.name == "PostProcess"
    assert result.main_output == folder / "postprocess.mrc"
    whole, masked = (mrc.read_volume(folder / f"postprocess{part}.mrc") for part in ("", "_masked"))
    mask = mrc.read_volume(source / "mask.mrc")
    assert torch.allclose(masked.values, whole.values * mask.values, atol=1e-6)
    expected = postprocess(*(mrc.read_volume(source / f"run_half{n}_class001_unfil.mrc") for n in (1, 2)), mask)
    assert torch.equal(whole.values, expected.map.values)

    tables = star.read(folder / "postprocess.star")
    assert tables.names == ("general", "fsc", "guinier")
    general, fsc, guinier = tables
    assert not general.is_loop
    assert float(general.value("rlnFinalResolution")) == pytest.approx(expected.resolution_angstrom, abs=1e-5)
    assert float(general.value("rlnBfactorUsedForSharpening")) == pytest.approx(expected.b_factor_angstrom2, abs=1e-5)
    assert general.value("rlnPostprocessedMap") == "PostProcess/job001/postprocess.mrc"
    assert general.value("rlnMaskName") == str(source / "mask.mrc")
    assert np.allclose(fsc.numbers("rlnFourierShellCorrelationCorrected"), expected.fsc.corrected, atol=1e-6)
    assert np.allclose(fsc.numbers("rlnAngstromResolution")[1:], 48 * 1.8 / np.arange(1, 25), atol=1e-5)
    weighted = expected.guinier.weighted.nan_to_num(nan=-99).numpy()
    assert np.allclose(guinier.numbers("rlnLogAmplitudesWeighted"), weighted, atol=1e-5)

    coordinates = xml.etree.ElementTree.parse(folder / "postprocess_fsc.xml").getroot().findall("coordinate")
    assert len(coordinates) == 25
    assert float(coordinates[3].findtext("y")) == pytest.approx(float(expected.fsc.corrected[3]), abs=1e-6)
    assert float(coordinates[3].findtext("x")) == pytest.approx(3 / (48 * 1.8), abs=1e-6)

    page = (folder / "report.html").read_text()
    for words in ("Fourier shell correlation", "Guinier plot", "Resolution by direction", "For the methods section"):
        assert words in page
    assert page.count("data:image/png") >= 21
    assert "run_half2_class001_unfil.mrc" in (folder / "run.log").read_text()
    assert json.loads((folder / "job.json").read_text())["main_output"]


def test_the_band_is_taken_from_the_refinement_s_model_file(source, project):
    folder = project / "Refine3D"
    shutil.copytree(source, folder)
    model = folder / "run_model.star"
    model.write_text("data_model_general\n_rlnOriginalImageSize 48\n_rlnCurrentImageSize 20\n")
    result = halfmap.postprocess(half1=folder, mask=folder, directional=False)
    general, fsc, _ = star.read(result.folder / "postprocess.star")
    assert np.flatnonzero(fsc.numbers("rlnFourierShellCorrelationMaskedMaps"))[-1] == 10
    assert float(general.value("rlnFinalResolution")) == pytest.approx(48 * 1.8 / 10, abs=1e-5)
    assert "Resolution limited by the band of the last iteration." in (result.folder / "run.log").read_text()
    model.write_text("data_model_general\n_rlnOriginalImageSize 64\n_rlnCurrentImageSize 20\n")
    assert half_map_inputs.band_shell_of(folder / "run_half1_class001_unfil.mrc", GRID) is None  # of other maps


def test_table_is_read_by_another_program_and_has_relion_s_labels(source, project):
    ours = starfile.read(halfmap.postprocess(half1=source, mask=source).folder / "postprocess.star", always_dict=True)
    theirs = starfile.read(shared_data("oracles/relion5_postprocess/postprocess.star"), always_dict=True)
    assert list(ours) == list(theirs)
    assert set(theirs["general"]) <= set(ours["general"])
    for name in ("fsc", "guinier"):
        assert list(ours[name].columns) == list(theirs[name].columns)


def test_without_a_mask_one_is_made_and_it_is_said(source, project):
    result = halfmap.postprocess(half1=source / "run_half2_class001_unfil.mrc")
    mask = mrc.read_volume(result.folder / "mask.mrc")
    assert 0 < float((mask.values > 0.5).float().mean()) < 0.6
    assert "No mask was given: making one" in (result.folder / "run.log").read_text()
    assert "made from the mean of the half maps" in (result.folder / "report.html").read_text()
    general = star.read(result.folder / "postprocess.star")["general"]
    assert general.value("rlnMaskName") == "PostProcess/job001/mask.mrc"
    bare = halfmap.postprocess(half1=source, automatic_mask=False, directional=False)
    assert not (bare.folder / "mask.mrc").exists()
    general = star.read(bare.folder / "postprocess.star")["general"]
    assert "rlnMaskName" not in general
    assert "rlnRandomiseFrom" not in general


def test_dark_half_maps_are_said_before_a_mask_is_made_of_them(source, project):
    for number in (1, 2):
        half = mrc.read_volume(source / f"run_half{number}_class001_unfil.mrc")
        mrc.write_volume(project / f"half{number}.mrc", Volume(values=-half.values, grid=GRID))
    log = (halfmap.postprocess(half1=project / "half1.mrc", directional=False).folder / "run.log").read_text()
    assert "change the sign first, with `halfmap volume flip --contrast`" in log


def test_calibrated_pixel_size_rescales_the_resolution_alone(source, project):
    results = [
        halfmap.postprocess(half1=source, mask=source, directional=False, b_factor_angstrom2=-50, **given)
        for given in ({}, {"pixel_size_angstrom": 1.89})
    ]
    found = [
        float(star.read(result.folder / "postprocess.star")["general"].value("rlnFinalResolution"))
        for result in results
    ]
    assert found[1] / found[0] == pytest.approx(1.89 / 1.8, rel=1e-5)
    assert mrc.read_header(results[1].main_output).pixel_size_angstrom == pytest.approx(1.89)


def test_mtf_is_divided_out_and_shown(source, project):
    table = project / "mtf.star"
    values = "".join(f"{frequency:.3f} {1 - frequency:.4f}\n" for frequency in np.linspace(0, 0.5, 26))
    table.write_text(f"data_\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n{values}")
    folder = halfmap.postprocess(half1=source, mask=source, mtf=table, mtf_pixel_size_angstrom=1.8).folder
    guinier = star.read(folder / "postprocess.star")["guinier"]
    gain = guinier.numbers("rlnLogAmplitudesMTFCorrected") - guinier.numbers("rlnLogAmplitudesOriginal")
    expected = [-math.log(1 - shell / 48) for shell in range(25)]
    assert np.allclose(gain, expected, atol=1e-4)
    assert "divided by the MTF" in (folder / "report.html").read_text()
    assert "pixels of" not in (folder / "run.log").read_text()
    unsaid = halfmap.postprocess(half1=source, mask=source, mtf=table, directional=False).folder
    assert "detector with pixels of 1.8 Å, as those of the maps" in (unsaid / "run.log").read_text()


def test_methods_text_names_all_that_was_done_and_nothing_else(source):
    halves = [mrc.read_volume(source / f"run_half{n}_class001_unfil.mrc") for n in (1, 2)]
    mask = mrc.read_volume(source / "mask.mrc")
    frequency = torch.linspace(0, 0.5, 9, dtype=torch.float64)
    mtf = MtfCurve(frequency_per_pixel=frequency, value=1 - frequency)

    def done(mask=mask, mtf=None, **settings):
        params = PostprocessParams(directional=False, b_factor_angstrom2=-50.0, **settings)
        text = postprocess_report.methods_text(postprocess(*halves, mask, params, mtf=mtf), is_mask_automatic=False)
        return text.partition(" between half maps")[2]

    weighted = "weighted by √(2 FSC / (1 + FSC)) (Rosenthal and Henderson 2003)"
    assert done().endswith(f"was {weighted} and sharpened with a B-factor of -50 Å².")
    assert done(low_pass_angstrom=5.0).endswith(
        f"was {weighted}, sharpened with a B-factor of -50 Å² and low-passed at 5.00 Å."
    )
    assert done(None, mtf, fsc_weighting=False, low_pass_angstrom=5.0) == (
        " without a mask. The mean of the half maps was divided by the modulation transfer function of the detector, "
        "sharpened with a B-factor of -50 Å² and low-passed at 5.00 Å."
    )


def test_same_command_gives_the_same_bytes(source, project):
    folders = [halfmap.postprocess(half1=source, mask=source, directional=False).folder for _ in range(2)]
    first, second = ((folder / "postprocess_fsc.xml").read_bytes() for folder in folders)
    assert first == second
    assert torch.equal(*(mrc.read_volume(folder / "postprocess.mrc").values for folder in folders))


def test_installed_command_prints_the_map_and_logs_the_resolution(source, project):
    answer = run_command(project, "postprocess", str(source), "--mask", str(source))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip().endswith("PostProcess/job001/postprocess.mrc")
    assert "Resolution" in answer.stderr
    assert "Ignoring" not in answer.stderr  # what a plotting library has to say belongs into no job's words


def test_blocks_of_a_result_stand_in_any_page(source):
    halves = [mrc.read_volume(source / f"run_half{n}_class001_unfil.mrc") for n in (1, 2)]
    result = postprocess(*halves, mrc.read_volume(source / "mask.mrc"))
    sections = postprocess_report.postprocess_sections(result, is_mask_automatic=True)
    assert [section.title for section in sections] == [
        "Resolution and sharpening",
        "Maps",
        "Directions",
        "For the methods section",
    ]
    assert f"{result.resolution_angstrom:.2f} Å at FSC = 0.143" in postprocess_report.methods_text(
        result, is_mask_automatic=False
    )
    facts = {fact.label: fact.value for fact in postprocess_report.postprocess_facts(result)}
    assert facts["Resolution"] == pytest.approx(result.resolution_angstrom, rel=1e-2)
    rows = {row[0]: row[1] for row in postprocess_report.methods_table(result).rows}
    assert rows["B-factor"] == pytest.approx(result.b_factor_angstrom2, rel=1e-2)


@pytest.mark.oracle
def test_job_agrees_with_relion_on_real_half_maps(project):
    folder = shared_data("oracles/relion5_postprocess")
    result = halfmap.postprocess(half1=folder, mask=folder / "mask.mrc", fit_from_angstrom=15, directional=False)
    ours, theirs = (star.read(place / "postprocess.star")["general"] for place in (result.folder, folder))
    # RELION: 9.80 Å, the last shell before the crossing; its curve crosses at 9.45 Å when interpolated
    assert float(ours.value("rlnFinalResolution")) == pytest.approx(9.45, abs=0.1)
    b_factors = [float(table.value("rlnBfactorUsedForSharpening")) for table in (ours, theirs)]
    assert b_factors[0] == pytest.approx(
        b_factors[1], rel=0.06
    )  # other random phases move the weights of the last shells
    maps = [mrc.read_volume(place / "postprocess.mrc").values.flatten() for place in (result.folder, folder)]
    assert float(torch.corrcoef(torch.stack(maps))[0, 1]) > 0.998


# refusals


def test_inputs_that_do_not_go_together_are_refused(source, project):
    first = source / "run_half1_class001_unfil.mrc"
    with pytest.raises(InconsistentDataError, match="got the same values in both"):
        halfmap.postprocess(half1=first, half2=first, mask=source)
    other = project / "mask.mrc"
    mrc.write_volume(other, Volume(values=torch.full((48, 48, 48), 5.0), grid=GRID))
    with pytest.raises(InputError, match=r"mask\.mrc must hold values from 0 to 1; got 5 to 5"):
        halfmap.postprocess(half1=source, mask=other)
    with pytest.raises(InputError, match="second half map must be a file; got the folder"):
        halfmap.postprocess(half1=first, half2=source)
    with pytest.raises(
        InputError, match=r"multiplies those at the Nyquist frequency by more than e\^80; give one above"
    ):
        halfmap.postprocess(half1=source, mask=source, b_factor_angstrom2=-1e6)
    with pytest.raises(InputError, match="must say half1 or half2"):
        halfmap.postprocess(half1=source / "mask.mrc")
    with pytest.raises(InputError, match="--mtf-pixel-size must go with an MTF"):
        halfmap.postprocess(half1=source, mtf_pixel_size_angstrom=1.0)
    with pytest.raises(InputError, match="between the box and the Nyquist frequency"):
        halfmap.postprocess(half1=source, mask=source, randomise_from_angstrom=2.0)
