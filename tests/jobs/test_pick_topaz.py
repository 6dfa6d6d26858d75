import numpy as np
import pytest

import halfmap
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.errors import InputError, JobFailed
from halfmap.io import mrc, relion, topaz
from halfmap.io.relion_picks import read_autopick
from halfmap.jobs import topaz_training
from halfmap.jobs.topaz_program import VARIABLES, downscale_for, find_program
from support.blob_micrographs import PIXEL_SIZE
from support.fake_topaz import FakeTopaz, argument
from support.pick_projects import DIAMETER, PickProject


@pytest.fixture(autouse=True)
def _no_program_of_the_user(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = PickProject(tmp_path / "project", n=4)
    monkeypatch.chdir(made.root)
    return made


def run(project, program, **options):
    given = {
        "micrographs": project.micrographs,
        "diameter_angstrom": DIAMETER,
        "workers": 1,
        "devices": "cpu",
        **options,
    }
    return halfmap.pick_topaz(executable=None if program is None else str(program.path), **given)


def train(project, program, **options):
    picks = project.write_picks("labels", project.positions)
    return run(project, program, train=True, picks=picks, expected_per_micrograph=20, **options)


def test_picks_are_in_pixels_of_the_micrograph_with_log_odds_as_figure_of_merit(project, tmp_path):
    program = FakeTopaz(tmp_path)
    result = run(project, program, pick=True, downscale=4)
    picks = read_autopick(result.main_output, project.root)
    assert list(picks.micrographs) == project.names
    one = picks.in_micrograph(project.names[0])
    np.testing.assert_allclose(one.position_pixel, [[120, 100], [40, 80]])
    np.testing.assert_allclose(one.figure_of_merit, [3.25, -5.5])


def test_topaz_is_told_radius_threshold_and_extra_arguments_and_no_model_without_one(project, tmp_path):
    program = FakeTopaz(tmp_path)
    run(project, program, pick=True, downscale=4, extra_arguments="--num-workers 2 --batch-size '3'")
    assert len(program.calls) == len(project.names)
    call = program.calls[0]
    assert call[0] == "extract"
    assert (argument(call, "-r"), argument(call, "-t"), argument(call, "-d")) == ("3", "-6.0", "-1")  # 130 / (2·5·4)
    assert argument(call, "--batch-size") == "3"
    assert "-m" not in call


def test_a_model_is_used_again(project, tmp_path):
    program = FakeTopaz(tmp_path)
    model = train(project, program).main_output
    run(project, program, pick=True, model=model)
    assert argument(program.calls[-1], "-m") == str(model)


def test_micrographs_are_reduced_and_standardised_before_topaz_sees_them(project, tmp_path):
    task = topaz_training.ReductionTask(
        path=project.root / project.names[0],
        target=tmp_path / "reduced.mrc",
        pixel_size_angstrom=PIXEL_SIZE,
        downscale=4,
    )
    assert topaz_training.reduce_one(task).shape == (55, 65)
    image = mrc.read_image(task.target)
    assert image.shape == (55, 65)  # 220 × 260 over 4
    assert image.mean() == pytest.approx(0, abs=1e-4)
    assert image.std() == pytest.approx(1, abs=1e-4)


def test_training_gives_reduced_positions_of_two_disjoint_sets_of_micrographs(project, tmp_path):
    program = FakeTopaz(tmp_path)
    train(project, program)
    [call] = program.calls
    assert argument(call, "-n") == "20"
    assert argument(call, "-r") == "1"  # 130 / (8·5·4), rounded
    sets = [topaz.read(argument(call, f"--{which}-targets")) for which in ("train", "test")]
    assert {*sets[0].micrographs}.isdisjoint(sets[1].micrographs)
    assert len(sets[1]) > 0
    for targets in sets:
        for name in targets.micrographs:
            true = project.positions[f"Micrographs/{name.split('_')[1]}.mrc"]
            np.testing.assert_array_equal(targets.in_micrograph(name).position_pixel, np.rint(true / 4))


def test_the_network_of_the_best_epoch_is_the_result(project, tmp_path):
    result = train(project, FakeTopaz(tmp_path))
    assert result.main_output.name == "model_epoch2.sav"
    assert "model_epoch2.sav" in (result.folder / "report.html").read_text()


def test_particles_train_where_their_refined_offset_puts_them(project, tmp_path):
    name = project.names[0]
    true = project.positions[name]
    offset = np.tile([20.0, -40.0], (len(true), 1))
    particles = ParticleSet(
        columns={
            "micrograph_name": np.full(len(true), name, dtype=object),
            "position_pixel": true + offset / PIXEL_SIZE,
            "origin_angstrom": offset,
            "optics_group": np.ones(len(true), dtype=np.int64),
        },
        optics=OpticsGroups(columns={"pixel_size_angstrom": np.array([PIXEL_SIZE])}),
    )
    relion.write_particles(project.root / "particles.star", particles)
    program = FakeTopaz(tmp_path)
    run(project, program, train=True, particles=project.root / "particles.star", expected_per_micrograph=20)
    targets = topaz.read(argument(program.calls[0], "--train-targets"))
    np.testing.assert_allclose(targets.position_pixel, true / 4, atol=0.5 + 1e-3)
    assert "--test-images" not in program.calls[0]


def test_a_micrograph_without_a_pick_gets_an_empty_coordinates_file(project, tmp_path):
    result = run(project, FakeTopaz(tmp_path, "finds nothing"), pick=True)
    picks = read_autopick(result.main_output, project.root)
    assert len(picks) == 0
    assert list(picks.micrographs) == project.names


@pytest.mark.parametrize("work", [train, lambda project, program: run(project, program, pick=True)])
def test_a_program_that_writes_nothing_is_no_success(project, tmp_path, work):
    with pytest.raises(JobFailed, match=r"must write a .*Its last words: this is a stand-in"):
        work(project, FakeTopaz(tmp_path, "writes nothing"))
    assert not list(project.root.glob("*/*/SUCCESS"))


@pytest.mark.parametrize("work", [train, lambda project, program: run(project, program, pick=True)])
def test_a_program_that_fails_is_quoted(project, tmp_path, work):
    with pytest.raises(JobFailed, match=r"got code 3.*CUDA error: no kernel image"):
        work(project, FakeTopaz(tmp_path, "fails"))


def test_the_program_is_found_by_flag_then_variables_then_search_path(tmp_path, monkeypatch):
    programs = [tmp_path / name for name in ("flag", "ours", "relion")]
    for path in programs:
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    monkeypatch.setenv("RELION_TOPAZ_EXECUTABLE", str(programs[2]))
    assert find_program(None) == str(programs[2])
    monkeypatch.setenv("HALFMAP_TOPAZ", str(programs[1]))
    assert find_program(None) == str(programs[1])
    assert find_program(str(programs[0])) == str(programs[0])


def test_a_missing_program_is_said_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(InputError, match=r"pip install 'halfmap\[topaz\]'"):
        find_program(None)
    with pytest.raises(InputError, match="--executable must name a program that can be run; got nowhere"):
        find_program("nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of --train and --pick; got neither"),
        ({"train": True, "pick": True}, "got both"),
        ({"train": True, "expected_per_micrograph": 5}, "one of --picks and --particles; got neither"),
        ({"train": True, "picks": "micrographs.star"}, "--expected-per-micrograph"),
        ({"pick": True, "picks": "micrographs.star"}, "belong to --train"),
    ],
)
def test_settings_that_do_not_fit_are_refused(project, options, message):
    with pytest.raises(InputError, match=message):
        run(project, None, **options)


def test_two_diameters_become_the_receptive_field_and_factors_below_four_are_not_used():
    assert downscale_for(180, 0.885) == 6
    assert downscale_for(100, 3.0) == 4


def test_a_fifth_of_the_positions_is_held_out_and_one_micrograph_is_not():
    held = topaz_training.split([10] * 20, seed=1)
    assert sum(held) == 5  # the fifth passes a fifth
    assert topaz_training.split([10], seed=1) == [False]
