"""2D classifications as files: ours and RELION's, there and back."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from halfmap.errors import FormatError, InconsistentDataError
from halfmap.io import mrc, relion, star
from halfmap.io.relion_classes import class_table, read_class_run, write_class_averages
from support.class_runs import PIXEL_SIZE, a_class_run, written

KEPT = (
    *("mask_diameter_angstrom", "iteration", "n_iterations", "algorithm", "regularisation", "psi_step_degrees"),
    *("offset_range_angstrom", "offset_step_angstrom", "offset_sigma_angstrom", "current_size_pixel", "mean_norm"),
    *("log_likelihood", "mean_max_probability", "seed", "perturbation", "perturbation_factor"),
)


def edited(path, change):
    """Change the text of a file."""
    text = change(path.read_text())
    path.write_text(text)


@pytest.mark.parametrize("side", [16, 15])
@pytest.mark.parametrize("n_optics_groups", [1, 2])
def test_a_written_run_is_read_back(tmp_path, side, n_optics_groups):
    run = a_class_run(side=side, n_optics_groups=n_optics_groups)
    optimiser = written(tmp_path, run)
    assert optimiser.name == "run_it025_optimiser.star"
    read = read_class_run(optimiser, project=tmp_path)
    for name in KEPT:
        assert getattr(read, name) == pytest.approx(getattr(run, name)), name
    assert read.settings["rlnDoIgnoreCtfUntilFirstPeak"] == "1"
    assert read.averages.grid == run.averages.grid
    for name, values in run.averages.columns.items():
        # Six decimals of a number, or nine figures where it is small: RELION's way of writing it.
        np.testing.assert_allclose(read.averages[name], values, rtol=1e-8, atol=6e-7, err_msg=name)
    order = [list(read.noise.group_name).index(name) for name in run.noise.group_name]
    np.testing.assert_allclose(read.noise.group_scale[order], run.noise.group_scale, atol=6e-7)
    np.testing.assert_array_equal(read.noise.optics_group, run.noise.optics_group)
    np.testing.assert_allclose(read.noise.noise_variance, run.noise.noise_variance, rtol=1e-8, atol=6e-7)
    for name, values in run.particles.columns.items():
        if values.dtype.kind in "Oi":
            np.testing.assert_array_equal(read.particles[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(read.particles[name], values, atol=2e-6, err_msg=name)


def test_any_file_of_the_iteration_and_the_folder_stand_for_the_run_and_the_folder_for_its_last_iteration(tmp_path):
    written(tmp_path, a_class_run(iteration=9))
    optimiser = written(tmp_path, a_class_run(iteration=10))
    for kind in ("optimiser", "model", "data", "sampling"):
        path = optimiser.with_name(f"run_it009_{kind}.star")
        assert read_class_run(path, project=tmp_path).iteration == 9
    assert read_class_run(optimiser.parent, project=tmp_path).iteration == 10


def test_averages_without_mask_belong_to_the_last_iteration_alone(tmp_path):
    written(tmp_path, a_class_run(iteration=9))
    optimiser = written(tmp_path, a_class_run(iteration=10))
    assert "unmasked_average" in read_class_run(optimiser, project=tmp_path).averages
    assert "unmasked_average" not in read_class_run(optimiser.with_name("run_it009_model.star")).averages


def test_files_say_where_the_others_lie_from_the_project_and_are_found_from_elsewhere(tmp_path, monkeypatch):
    run = a_class_run()
    optimiser = written(tmp_path / "project", run)
    texts = [optimiser.read_text(), optimiser.with_name("run_it025_model.star").read_text()]
    assert "Class2D/job007/run_it025_model.star" in texts[0]
    assert "000001@Class2D/job007/run_it025_classes.mrcs" in texts[1]
    assert str(tmp_path) not in "".join(texts)
    monkeypatch.chdir(tmp_path)
    assert len(read_class_run(optimiser).averages) == 5
    shutil.copytree(optimiser.parent, tmp_path / "copied")
    shutil.rmtree(tmp_path / "project")
    np.testing.assert_array_equal(read_class_run(tmp_path / "copied").averages["average"], run.averages["average"])


def test_stacks_are_float32_with_the_pixel_size(tmp_path):
    run = a_class_run()
    optimiser = written(tmp_path, run)
    for name in ("run_it025_classes.mrcs", "run_unmasked_classes.mrcs"):
        header = mrc.read_header(optimiser.with_name(name))
        assert (header.mode, header.shape, header.space_group) == (2, (5, 16, 16), 0)
        assert header.pixel_size_angstrom == pytest.approx(PIXEL_SIZE)


def test_the_optimiser_file_appears_last(tmp_path, monkeypatch):
    seen = []
    write = star.write
    monkeypatch.setattr(star, "write", lambda path, tables: (seen.append(path.name), write(path, tables)))
    optimiser = written(tmp_path, a_class_run())
    assert seen[-1] == optimiser.name
    assert {path.name for path in optimiser.parent.iterdir()} == {
        *(f"run_it025_{kind}.star" for kind in ("data", "model", "sampling", "optimiser")),
        "run_it025_classes.mrcs",
        "run_unmasked_classes.mrcs",
    }


def test_groups_are_numbered_as_particles_name_them(tmp_path):
    run = a_class_run(n_micrographs=4)
    data = relion.read_particles(written(tmp_path, run).with_name("run_it025_data.star"))
    groups = star.read(tmp_path / "Class2D/job007/run_it025_model.star")["model_groups"]
    assert data["group_number"][:4].tolist() == [1, 2, 3, 4]
    assert groups.text("rlnGroupName").tolist() == run.particles["group_name"][:4].tolist()
    scale = dict(zip(run.noise.group_name, run.noise.group_scale, strict=True))
    np.testing.assert_allclose(
        groups.numbers("rlnGroupScaleCorrection"), [scale[name] for name in groups["rlnGroupName"]], atol=6e-7
    )


def test_what_relion_has_no_number_for_is_written_as_it_writes_it(tmp_path):
    table = class_table(a_class_run().averages.with_columns(image_name="a"), name="model_classes")
    assert table.numbers("rlnEstimatedResolution")[-1] == 999
    assert table.numbers("rlnAccuracyRotations")[-1] == 999
    assert table.numbers("rlnClassScore")[-1] == -999
    written(tmp_path, a_class_run())
    model = star.read(tmp_path / "Class2D/job007/run_it025_model.star")
    assert (model["model_class_5"].numbers("rlnGoldStandardFsc") == 0).all()
    assert model["model_general"].value("rlnCurrentResolution") == "16.000000"
    assert model["model_class_1"].numbers("rlnAngstromResolution")[1] == pytest.approx(16 * PIXEL_SIZE)


@pytest.mark.parametrize("factor", [0.0, 0.3])
def test_the_shift_of_the_sampling_is_the_run_s(tmp_path, factor):
    optimiser = written(tmp_path, replace(a_class_run(), perturbation=-factor / 2, perturbation_factor=factor))
    sampling = star.read(optimiser.with_name("run_it025_sampling.star"))["sampling_general"]
    assert float(sampling.value("rlnSamplingPerturbFactor")) == pytest.approx(factor)
    assert float(sampling.value("rlnSamplingPerturbInstance")) == pytest.approx(-factor / 2)


def test_a_spectrum_that_ends_before_the_box_goes_on_with_no_signal_and_the_last_noise(tmp_path):
    run = a_class_run()
    short = {name: run.averages[name][:, :6] for name in ("ssnr", "frc", "prior_variance")}
    noise = type(run.noise)(**{**vars(run.noise), "noise_variance": run.noise.noise_variance[:, :6]})
    run = type(run)(**{**vars(run), "averages": run.averages.with_columns(**short), "noise": noise})
    read = read_class_run(written(tmp_path, run), project=tmp_path)
    np.testing.assert_allclose(read.averages["ssnr"][:, :6], short["ssnr"], atol=6e-7)
    assert (read.averages["ssnr"][:, 6:] == 0).all()
    np.testing.assert_allclose(
        read.noise.noise_variance[:, 5:], noise.noise_variance[:, 5:6] + np.zeros((1, 4)), rtol=1e-6
    )


def test_offsets_of_relion_before_3_1_are_in_pixels_and_noise_belongs_to_micrographs(tmp_path):
    run = a_class_run(score=np.full(5, np.nan))
    optimiser = written(tmp_path, run)
    model = optimiser.with_name("run_it025_model.star")
    edited(model, lambda text: re.sub(r"_rlnSigmaOffsetsAngst +\S+", "_rlnSigmaOffsets 1.375", text))
    edited(model, lambda text: text.replace("_rlnAccuracyTranslationsAngst", "_rlnAccuracyTranslations"))
    edited(
        model, lambda text: re.sub(r"# version 30001\ndata_model_optics_group_1.*?(?=# version)", "", text, flags=re.S)
    )
    edited(model, lambda text: text.replace("_rlnNrOpticsGroups", "_rlnOther"))
    edited(
        optimiser.with_name("run_it025_sampling.star"),
        lambda text: text.replace("12.000000", "3.000000", 2).replace("8.000000", "2.000000", 1),
    )
    read = read_class_run(optimiser, project=tmp_path)
    assert read.offset_sigma_angstrom == pytest.approx(5.5)
    np.testing.assert_allclose(
        read.averages["offset_accuracy_angstrom"], run.averages["offset_accuracy_angstrom"] * PIXEL_SIZE, atol=6e-6
    )
    assert (read.offset_range_angstrom, read.offset_step_angstrom) == (12.0, 4.0)
    np.testing.assert_allclose(read.noise.noise_variance, run.noise.noise_variance, rtol=1e-8, atol=6e-7)


def test_moments_of_a_vdam_run_are_passed_over_and_the_last_shells_may_lack(tmp_path):
    optimiser = written(tmp_path, a_class_run())
    model = optimiser.with_name("run_it025_model.star")
    tables = []
    for table in star.read(model):
        columns = dict(table.columns)
        if table.name == "model_classes":
            for order in (1, 2):
                name = f"000001@Class2D/job007/run_it025_{order}moment.mrcs"
                columns[f"rlnGradMoment{order}"] = np.full(len(table), name, dtype=object)
        if table.name == "model_optics_group_1":
            columns = {label: values[:-2] for label, values in columns.items()}
        tables.append(star.StarTable(name=table.name, columns=columns, is_loop=table.is_loop))
    star.write(model, tables)
    edited(
        optimiser, lambda text: re.sub(r"_rlnDoStochasticGradientDescent +0", "_rlnDoStochasticGradientDescent 1", text)
    )
    edited(optimiser, lambda text: re.sub(r"_halfmapAlgorithm.*\n", "", text))
    read = read_class_run(optimiser, project=tmp_path)
    assert read.algorithm == "vdam"
    assert (read.noise.noise_variance[0, -2:] == 0).all()
    assert (read.noise.noise_variance[0, :-2] > 0).all()


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("particles.star", None, "a table of particles"),
        ("micrographs.star", "data_micrographs\nloop_\n_rlnMicrographName\na.mrc\n", "a table of micrographs"),
        ("class_averages.star", "data_\nloop_\n_rlnReferenceImage\n1@a.mrcs\n", "a table of class averages"),
        ("job.star", "data_job\n_rlnJobType 8\n", "the settings of a RELION job"),
        ("other.star", "data_other\n_a 1\n", "a STAR file of data_other"),
        ("stack.mrcs", "", "an MRC file"),
        ("run_it025_model.star", "data_model_general\n_a 1\n", "found none"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, name, content, found):
    if content is None:
        relion.write_particles(tmp_path / name, a_class_run().particles)
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=found):
        read_class_run(tmp_path / name, project=tmp_path)


def test_a_3d_model_and_a_missing_file_and_a_folder_without_runs_are_refused(tmp_path):
    optimiser = written(tmp_path, a_class_run())
    model = optimiser.with_name("run_it025_model.star")
    edited(model, lambda text: re.sub(r"(_rlnReferenceDimensionality +)2", r"\g<1>3", text))
    with pytest.raises(FormatError, match="found a 3D classification"):
        read_class_run(optimiser, project=tmp_path)
    model.unlink()
    with pytest.raises(FormatError, match=r"run_it025_model[.]star of its iteration"):
        read_class_run(optimiser, project=tmp_path)
    with pytest.raises(FormatError, match="found a folder with Class2D"):
        read_class_run(tmp_path, project=tmp_path)


def test_particles_of_a_class_that_the_model_has_not_are_refused(tmp_path):
    optimiser = written(tmp_path, a_class_run())
    run = a_class_run(n_classes=7)
    relion.write_particles(optimiser.with_name("run_it025_data.star"), run.particles)
    with pytest.raises(InconsistentDataError, match="one of the 5 classes of the model; got number 7"):
        read_class_run(optimiser, project=tmp_path)


def test_a_group_without_a_scale_is_refused_before_it_is_written(tmp_path):
    run = a_class_run()
    noise = type(run.noise)(**{**vars(run.noise), "group_name": run.noise.group_name[:2], "group_scale": np.ones(2)})
    with pytest.raises(InconsistentDataError, match=r"got 'MotionCorr/job002/Movies/mic_1.mrc'"):
        written(tmp_path, type(run)(**{**vars(run), "noise": noise}))


def test_chosen_classes_are_written_as_a_stack_and_a_table_that_keeps_their_numbers(tmp_path):
    averages = a_class_run().averages.take([3, 1])
    path = write_class_averages(tmp_path / "class_averages.star", averages, relative=lambda path: path.name)
    table = next(iter(star.read(path)))
    assert table.integers("rlnClassNumber").tolist() == [4, 2]
    assert table.text("rlnReferenceImage").tolist() == ["000001@class_averages.mrcs", "000002@class_averages.mrcs"]
    np.testing.assert_array_equal(mrc.map_data(tmp_path / "class_averages.mrcs"), averages["average"])
