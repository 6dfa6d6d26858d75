"""3D refinements as files: ours and RELION's, there and back."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.errors import FormatError, InconsistentDataError
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.io import mrc, relion, star
from halfmap.io.relion_refinement import read_refinement_run, write_angular_distribution
from support.class_runs import a_class_run
from support.class_runs import written as written_classes
from support.refinement_runs import PIXEL_SIZE, a_refinement_run, written

KEPT = (
    *("symmetry", "mask_diameter_angstrom", "iteration", "healpix_order", "is_local", "offset_range_angstrom"),
    *("offset_step_angstrom", "rotation_accuracy_degrees", "offset_accuracy_angstrom", "resolution_angstrom"),
    *(
        "current_size_pixel",
        "regularisation",
        "padding",
        "join_resolution_angstrom",
        "perturbation",
        "perturbation_factor",
        "is_final",
        "seed",
    ),
)


def edited(path, change):
    """Change the text of a file."""
    path.write_text(change(path.read_text()))


def assert_is_read_back(run, read):
    """Compare what a run and its files say; six decimals of a number, or nine figures where it is small."""
    for name in KEPT:
        assert getattr(read, name) == pytest.approx(getattr(run, name), abs=6e-7), name
    for name in ("fsc", "used_fsc"):
        np.testing.assert_allclose(getattr(read, name), getattr(run, name), atol=6e-7, err_msg=name)
    for name, values in run.history.columns.items():
        np.testing.assert_allclose(read.history[name], values, rtol=1e-8, err_msg=name)
    assert read.settings["rlnDoIgnoreCtfUntilFirstPeak"] == "1"
    for name, values in run.particles.columns.items():
        if values.dtype.kind in "Oi":
            np.testing.assert_array_equal(read.particles[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(read.particles[name], values, atol=2e-6, err_msg=name)
    for half, mine in zip(read.halves, run.halves, strict=True):
        assert half.offset_sigma_angstrom == pytest.approx(mine.offset_sigma_angstrom, abs=6e-7)
        for name in ("ssnr", "error_variance", "completeness"):
            np.testing.assert_allclose(getattr(half, name), getattr(mine, name), rtol=1e-6, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(half.noise.optics_group, mine.noise.optics_group)
        np.testing.assert_allclose(half.noise.noise_variance, mine.noise.noise_variance, rtol=1e-8, atol=6e-7)
        order = [list(half.noise.group_name).index(name) for name in mine.noise.group_name]
        np.testing.assert_allclose(half.noise.group_scale[order], mine.noise.group_scale, atol=6e-7)


@pytest.mark.parametrize(("side", "n_optics_groups", "symmetry"), [(24, 1, "C1"), (15, 2, "D2")])
def test_a_run_under_way_is_read_back(tmp_path, side, n_optics_groups, symmetry):
    run = a_refinement_run(
        side=side, n_optics_groups=n_optics_groups, symmetry=symmetry, perturbation=-0.31, perturbation_factor=0.4
    )
    data = written(tmp_path, run)
    assert data.name == "run_it012_data.star"
    read = read_refinement_run(data, project=tmp_path)
    assert_is_read_back(run, read)
    for half, mine in zip(read.halves, run.halves, strict=True):
        torch.testing.assert_close(half.map.values, mine.map.values, rtol=0, atol=0)
        assert half.map.grid == mine.map.grid
        assert half.unregularised is None
    assert read.joined is None


def test_a_finished_run_is_read_back_with_the_last_maps_that_were_compared(tmp_path):
    before = a_refinement_run(iteration=11)
    run = a_refinement_run(is_final=True, healpix_order=4, is_local=True)
    written(tmp_path, before)
    data = written(tmp_path, run)
    assert data.name == "run_data.star"
    for path in (data.parent, data, data.with_name("run_optimiser.star"), data.with_name("run_class001.mrc")):
        read = read_refinement_run(path, project=tmp_path)
        assert_is_read_back(run, read)
    torch.testing.assert_close(read.joined.values, run.joined.values, rtol=0, atol=0)
    for half, mine, last in zip(read.halves, run.halves, before.halves, strict=True):
        torch.testing.assert_close(half.unregularised.values, mine.unregularised.values, rtol=0, atol=0)
        torch.testing.assert_close(half.map.values, last.map.values, rtol=0, atol=0)


def test_files_have_the_names_of_relion(tmp_path):
    folder = written(tmp_path, a_refinement_run()).parent
    kinds = ("data", "half1_model", "half2_model", "optimiser", "sampling")
    expected = {f"run_it012_{kind}.star" for kind in kinds} | {f"run_it012_half{n}_class001.mrc" for n in (1, 2)}
    assert {path.name for path in folder.iterdir()} == expected
    folder = written(tmp_path, a_refinement_run(is_final=True), folder="Refine3D/job008").parent
    expected = {f"run_{kind}.star" for kind in (*kinds, "model")} | {
        *(f"run_half{n}_class001_unfil.mrc" for n in (1, 2)),
        *("run_class001.mrc", "run_class001_angdist.bild"),
    }
    assert {path.name for path in folder.iterdir()} == expected
    header = mrc.read_header(folder / "run_class001.mrc")
    assert (header.mode, header.shape, header.space_group) == (2, (24, 24, 24), 1)
    assert header.pixel_size_angstrom == pytest.approx(PIXEL_SIZE)


def test_the_optimiser_file_appears_last(tmp_path, monkeypatch):
    seen = []
    write = star.write
    monkeypatch.setattr(star, "write", lambda path, tables: (seen.append(path.name), write(path, tables)))
    written(tmp_path, a_refinement_run())
    assert seen[-1] == "run_it012_optimiser.star"


def test_files_name_each_other_from_the_project_and_are_found_from_elsewhere(tmp_path):
    run = a_refinement_run()
    data = written(tmp_path / "project", run)
    text = data.with_name("run_it012_optimiser.star").read_text()
    assert "Refine3D/job007/run_it012_half2_model.star" in text
    assert "Refine3D/job007/run_it012_half1_class001.mrc" in data.with_name("run_it012_half1_model.star").read_text()
    assert str(tmp_path) not in text
    shutil.copytree(data.parent, tmp_path / "copied")
    shutil.rmtree(tmp_path / "project")
    assert_is_read_back(run, read_refinement_run(tmp_path / "copied"))


def test_a_folder_stands_for_its_end_or_else_its_last_iteration(tmp_path):
    written(tmp_path, a_refinement_run(iteration=9))
    folder = written(tmp_path, a_refinement_run(iteration=10)).parent
    assert read_refinement_run(folder, project=tmp_path).iteration == 10
    assert read_refinement_run(folder / "run_it009_half2_model.star", project=tmp_path).iteration == 9
    written(tmp_path, a_refinement_run(iteration=11, is_final=True))
    assert read_refinement_run(folder, project=tmp_path).is_final


def test_the_end_of_a_run_of_relion_has_one_model_and_may_have_no_optimiser(tmp_path):
    written(tmp_path, a_refinement_run(iteration=11))
    run = a_refinement_run(is_final=True)
    folder = written(tmp_path, run).parent
    for name in ("run_half1_model.star", "run_half2_model.star", "run_optimiser.star"):
        (folder / name).unlink()
    read = read_refinement_run(folder, project=tmp_path)
    np.testing.assert_allclose(read.halves[0].noise.noise_variance, run.joined_noise().noise_variance, atol=6e-7)
    np.testing.assert_allclose(read.halves[1].ssnr, run.joined_ssnr(), rtol=1e-6, atol=1e-6)
    assert read.mask_diameter_angstrom == run.mask_diameter_angstrom


def test_what_relion_needs_stands_in_the_files(tmp_path):
    run = a_refinement_run(symmetry="D2", fsc=np.full(13, 0.25))
    folder = written(tmp_path, run).parent
    model = star.read(folder / "run_it012_half2_model.star")
    assert model["model_general"].value("rlnReferenceDimensionality") == "3"
    sizes = model["model_groups"].integers("rlnGroupNrParticles")
    assert sizes.sum() == np.count_nonzero(run.particles["random_subset"] == 2)
    of_class = model["model_class_1"]
    # σ² and τ² of RELION are those of slices, side times as large as coefficients of the map
    error = 24**2 * run.halves[1].error_variance
    np.testing.assert_allclose(of_class.numbers("rlnReferenceSigma2"), error, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(of_class.numbers("rlnReferenceTau2"), error * run.halves[1].ssnr, rtol=1e-6, atol=1e-6)
    assert of_class.numbers("rlnFourierShellCorrelationUnmaskedMaps")[3] == 0.25
    directions = model["model_pdf_orient_class_1"].numbers("rlnOrientationDistribution")
    sampling = star.read(folder / "run_it012_sampling.star")
    assert len(directions) == len(sampling["sampling_directions"]) == 192 // 4
    assert directions.sum() == pytest.approx(1, abs=1e-4)
    general = sampling["sampling_general"]
    assert (general.value("rlnHealpixOrder"), general.value("rlnSymmetryGroup")) == ("2", "D2")
    assert general.value("rlnPsiStep") == "15.000000"
    assert general.value("rlnOffsetStep") == "6.000000"  # of the first pass
    state = star.read(folder / "run_it012_optimiser.star")["optimiser_general"]
    assert [state.value(f"rln{name}") for name in ("DoAutoRefine", "DoSplitRandomHalves", "HasConverged")] == list(
        "110"
    )


def test_numbers_that_are_not_known_yet_are_written_as_relion_does(tmp_path):
    run = a_refinement_run(
        rotation_accuracy_degrees=np.nan, offset_accuracy_angstrom=np.nan, resolution_angstrom=np.inf, iteration=0
    )
    run = replace(run, join_resolution_angstrom=np.inf, history=type(run.history)(columns={}))
    data = written(tmp_path, run)
    general = star.read(data.with_name("run_it000_half1_model.star"))["model_general"]
    assert general.value("rlnCurrentResolution") == "999.000000"
    read = read_refinement_run(data, project=tmp_path)
    assert np.isnan(read.rotation_accuracy_degrees)
    assert np.isinf([read.resolution_angstrom, read.join_resolution_angstrom]).all()
    assert len(read.history) == 0


def test_offsets_of_relion_before_3_1_are_in_pixels(tmp_path):
    run = a_refinement_run()
    data = written(tmp_path, run)
    for half in (1, 2):
        model = data.with_name(f"run_it012_half{half}_model.star")
        edited(model, lambda text: re.sub(r"_rlnSigmaOffsetsAngst +\S+", "_rlnSigmaOffsets 1.375", text))
        edited(model, lambda text: text.replace("_rlnAccuracyTranslationsAngst", "_rlnAccuracyTranslations"))
    read = read_refinement_run(data, project=tmp_path)
    assert [half.offset_sigma_angstrom for half in read.halves] == [5.5, 5.5]
    assert read.offset_accuracy_angstrom == pytest.approx(run.offset_accuracy_angstrom * PIXEL_SIZE)
    assert read.offset_range_angstrom == run.offset_range_angstrom * PIXEL_SIZE


def test_cylinders_stand_where_particles_were_seen_from(tmp_path):
    run = a_refinement_run(n_particles=4)
    rotation = matrix_from_euler(torch.tensor([0.0, 0, 0, 90]), torch.tensor([0.0, 0, 0, 90]), torch.zeros(4)).numpy()
    run = run.with_particles(run.particles.with_columns(rotation=rotation))
    write_angular_distribution(tmp_path / "angdist.bild", run)
    lines = (tmp_path / "angdist.bild").read_text().split("\n")
    cylinders = np.array([[float(word) for word in line.split()[1:]] for line in lines if line.startswith(".cylinder")])
    assert sorted(line for line in lines if line.startswith(".color"))[-1] == ".color 1.000 0 0.000"
    centre, radius = 12 * PIXEL_SIZE, 12 * PIXEL_SIZE
    starts, ends = cylinders[:, :3] - centre, cylinders[:, 3:6] - centre
    np.testing.assert_allclose(np.linalg.norm(starts, axis=1), radius, rtol=1e-3)
    longest = int(np.linalg.norm(ends, axis=1).argmax())
    assert np.linalg.norm(ends[longest]) == pytest.approx(1.3 * radius, rel=1e-3)
    # along z up to half a pixel of the grid of 15°
    assert starts[longest][2] / radius > np.cos(np.radians(12))
    assert starts[1 - longest][1] / radius > np.cos(np.radians(12))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("other.star", "data_other\n_a 1\n", "a file of blocks other"),
        ("run_optimiser.star", "data_other\n_a 1\n", "a file of blocks other"),
        ("reference.mrc", "", "an MRC file"),
        ("run_it003_data.star", "data_\n", "found none"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, name, content, found):
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=found):
        read_refinement_run(tmp_path / name)


def test_classifications_missing_files_and_particles_without_halves_are_refused(tmp_path):
    classes = written_classes(tmp_path, a_class_run())
    with pytest.raises(FormatError, match="found a classification"):
        read_refinement_run(classes.parent, project=tmp_path)
    with pytest.raises(FormatError, match="found a folder with Class2D"):
        read_refinement_run(tmp_path)
    run = a_refinement_run()
    data = written(tmp_path, run)
    relion.write_particles(data, run.particles.without_columns("random_subset"))
    with pytest.raises(InconsistentDataError, match="must have half-sets"):
        read_refinement_run(data, project=tmp_path)
    data.unlink()
    with pytest.raises(FormatError, match=r"expected the file run_it012_data[.]star"):
        read_refinement_run(data.with_name("run_it012_sampling.star"), project=tmp_path)
