"""The chain on micrographs of dark balls, which need no CTF and look alike from everywhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import halfmap
from halfmap.errors import InconsistentDataError, InputError
from halfmap.io import relion
from halfmap.jobs import pick_bootstrap_report
from halfmap.jobs.micrograph_inputs import open_micrographs
from halfmap.jobs.pick_bootstrap import JOB, PickBootstrapParams
from halfmap.jobs.pick_lists import particles_by_micrograph
from halfmap.picking.agreement import agreement
from halfmap.project.options import RunOptions
from halfmap.project.record import locate_input
from halfmap.project.runner import continue_job
from support.blob_micrographs import PIXEL_SIZE, noise
from support.contexts import a_context
from support.picked_projects import SHAPE, PickedProject

SETTINGS = {
    "diameter_angstrom": 130.0,
    "training_micrographs": 2,
    "classes": 2,
    "epochs": 1,
    "ctf": False,
    "workers": 1,
    "threads": 1,
}
STEPS = ("Split", "PickLog", "Extract", "Class2D", "Select", "PickTrain", "PickNetwork", "ExtractAll")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return PickedProject(tmp_path_factory.mktemp("bootstrap") / "project", n=3, n_particles=20)


@pytest.fixture(autouse=True)
def in_project(project, monkeypatch):
    monkeypatch.chdir(project.root)


def bootstrap(project, **changes):
    return halfmap.pick_bootstrap(**{"micrographs": project.micrographs, **SETTINGS, **changes})


@pytest.fixture(scope="module")
def stopped_and_continued(project):
    """Run the chain, stopped where its network is taught, and go on."""
    page = pick_bootstrap_report.page

    def give_out(context, params, done, *, is_finished):
        if "Select" in done and "PickTrain" not in done:
            raise OSError("the machine gave out")
        return page(context, params, done, is_finished=is_finished)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        patch.setattr(pick_bootstrap_report, "page", give_out)
        with pytest.raises(OSError, match="gave out"):
            bootstrap(project, min_fom=0.0, out="Chain")
        assert "running" in (project.root / "Chain/report.html").read_text()
        before = {step: (project.root / f"Chain/{step}/run.log").read_text() for step in STEPS[:5]}
        patch.setattr(pick_bootstrap_report, "page", page)
        result = continue_job("Chain", JOB, options=RunOptions(workers=1, threads=1))
    return result, before


def test_a_stopped_chain_goes_on_without_doing_again_what_is_done(stopped_and_continued):
    result, before = stopped_and_continued
    assert {step: (result.folder / step / "run.log").read_text() for step in before} == before
    assert all((result.folder / step / "SUCCESS").exists() for step in STEPS)


def test_the_network_picks_all_micrographs_and_what_is_likely_is_extracted(project, stopped_and_continued):
    result, _ = stopped_and_continued
    picks = relion.read_autopick(result.main_output, project.root)
    assert set(picks.micrographs) == set(project.names)
    likely = picks.take(picks.figure_of_merit > 0)
    for name, true in project.positions.items():
        assert agreement(likely.in_micrograph(name).position_pixel, true, distance=6.5).f1 > 0.9
    extracted = relion.read_particles(result.folder / "ExtractAll/particles.star")
    assert len(extracted) == len(likely)


def test_the_page_leads_to_the_pages_of_the_steps(stopped_and_continued):
    result, _ = stopped_and_continued
    page = (result.folder / "report.html").read_text()
    for step in STEPS:
        assert f'href="{step}/report.html"' in page
        assert (result.folder / step / "report.html").exists()
    for words in ("Blobs and network", "The network has not learned from it", "Learned from", "Average precision"):
        assert words in page


def test_the_chain_stands_for_its_picks_its_detector_and_its_particles(project, stopped_and_continued):
    result, _ = stopped_and_continued
    for name, file in (
        ("picks", "PickNetwork/autopick.star"),
        ("model", "PickTrain/model.safetensors"),
        ("particles", "ExtractAll/particles.star"),
    ):
        assert locate_input(project.root, Path("Chain"), name, f"--{name}") == result.folder / file


def test_steps_are_asked_what_follows_from_the_diameter(stopped_and_continued):
    result, _ = stopped_and_continued

    def parameters(step):
        return json.loads((result.folder / step / "job.json").read_text())["parameters"]

    assert (parameters("PickLog")["min_diameter_angstrom"], parameters("PickLog")["max_diameter_angstrom"]) == (
        117,
        143,
    )
    assert (parameters("Extract")["box_pixel"], parameters("Extract")["rescale_pixel"]) == (40, 40)
    assert parameters("Class2D")["mask_diameter_angstrom"] == pytest.approx(143)
    assert parameters("PickTrain")["expected_per_micrograph"] == pytest.approx(20, abs=2)
    assert parameters("PickNetwork")["diameter_angstrom"] == 130


@pytest.mark.parametrize(
    ("diameter", "pixel_size", "box", "side"),
    [(180, 0.885, 306, 76), (130, 1.5, 130, 56), (400, 1.0, 600, 128), (100, 5.0, 30, 30)],
)
def test_windows_follow_from_the_diameter(diameter, pixel_size, box, side):
    params = PickBootstrapParams(micrographs="a.star", diameter_angstrom=diameter)
    assert (params.box_pixel(pixel_size), params.rescale_pixel(pixel_size)) == (box, side)


def test_what_was_displaced_when_it_was_extracted_is_labelled_where_it_lies(project):
    """Windows lie up to 20 Å beside the particles, and their pixels are larger than the micrographs'."""
    displaced = {
        name: true + 4 * np.column_stack([np.cos(np.arange(len(true))), np.sin(np.arange(len(true)))])
        for name, true in project.positions.items()
    }
    folder = project.root / "displaced"
    folder.mkdir()
    for name, positions in displaced.items():
        rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in positions)
        stem = name.removeprefix("Micrographs/").removesuffix(".mrc")
        (folder / f"{stem}.star").write_text(f"data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n{rows}\n")
    extracted = halfmap.extract(
        micrographs=project.micrographs, picks=folder, box_pixel=48, rescale_pixel=36, workers=1, threads=1
    )
    classified = halfmap.class2d(
        particles=extracted.main_output,
        classes=1,
        mask_diameter_angstrom=150.0,
        ctf=False,
        iterations=8,
        closing_passes=0,
        workers=1,
        threads=1,
    )
    selected = halfmap.select_classes(classification=classified.folder, classes=(1,))
    opened = open_micrographs(a_context(project.root), project.micrographs)
    errors = np.concatenate(
        [
            one.position_pixel - project.positions[name]
            for name, one in zip(opened.names, particles_by_micrograph(selected.main_output, opened), strict=True)
        ]
    )
    # the displacement had a mean of about 0 and a root mean square of 20 Å
    assert np.abs(PIXEL_SIZE * errors.mean(axis=0)).max() < 2.0
    assert PIXEL_SIZE * np.sqrt((errors**2).sum(axis=1).mean()) < 8.0


def test_micrographs_without_a_ctf_are_refused_before_anything_is_done(project):
    with pytest.raises(InconsistentDataError, match=r"no _rlnDefocusU, _rlnDefocusV; .*--no-ctf"):
        bootstrap(project, ctf=True, out="NoCtf")
    assert not (project.root / "NoCtf/Split").exists()


@pytest.mark.parametrize(
    ("diameter", "said"), [(600.0, "less than a third"), (70.0, "at least 16 pixels of the micrographs")]
)
def test_diameters_that_do_not_fit_are_refused_before_anything_is_done(project, diameter, said):
    with pytest.raises(InputError, match=said):
        bootstrap(project, diameter_angstrom=diameter, out=f"Diameter{diameter:g}")
    assert not (project.root / f"Diameter{diameter:g}/Split").exists()


def test_a_shortest_diameter_above_the_longest_is_refused(project):
    with pytest.raises(InputError, match="--min-diameter must not exceed --diameter"):
        bootstrap(project, min_diameter_angstrom=150.0)


def test_micrographs_that_cannot_be_opened_are_not_drawn(project):
    table = project.list("missing.star", ["Micrographs/gone.mrc", project.names[0]])
    with pytest.raises(InputError, match="At least 30 blobs must be found"):
        bootstrap(project, micrographs=table, out="Missing")
    drawn = relion.read_micrographs(project.root / "Missing/Split/micrographs_split1.star")
    assert list(drawn["micrograph_name"]) == [project.names[0]]


def test_micrographs_of_noise_are_refused_once_hardly_a_blob_is_found(project):
    name = "Micrographs/noise.mrc"
    project.write(name, 100 + noise(SHAPE, seed=9))
    with pytest.raises(InputError, match=r"At least 30 blobs must be found.*--training-micrographs"):
        bootstrap(project, micrographs=project.list("noise.star", [name]))


def test_classes_that_are_not_good_enough_can_be_selected_by_hand(project, stopped_and_continued):
    chain, _ = stopped_and_continued
    strict = project.root / "Strict"
    shutil.copytree(chain.folder, strict, ignore=shutil.ignore_patterns("Select", "SUCCESS"))
    for step in STEPS:
        if step != "Select":
            (strict / step / "SUCCESS").touch()
    record = json.loads((strict / "job.json").read_text())
    record["parameters"]["min_score"] = 1.0
    (strict / "job.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"At least one class must score 1 or more; got 0\.\d\d at best.*--continue"):
        continue_job(strict, JOB, options=RunOptions(workers=1))
    assert not (strict / "Select").exists()
    halfmap.select_classes(classification=strict / "Class2D", classes=(1,), out=strict / "Select")
    assert continue_job(strict, JOB, options=RunOptions(workers=1)).main_output.exists()
