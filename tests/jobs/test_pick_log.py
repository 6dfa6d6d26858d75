import json

import numpy as np
import pytest

import halfmap
from halfmap.errors import InconsistentDataError, JobFailed
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion, star
from halfmap.io.relion_picks import read_autopick
from halfmap.jobs import picking
from halfmap.jobs.micrograph_masks import read_masks
from halfmap.jobs.pick_log import JOB
from halfmap.picking.agreement import agreement
from halfmap.project.options import RunOptions
from halfmap.project.runner import continue_job
from support.blob_micrographs import micrograph, noise, spread_positions

PIXEL_SIZE = 5.0
SHAPE = (300, 340)
DIAMETERS = {"min_diameter_angstrom": 120.0, "max_diameter_angstrom": 140.0}


class Project:
    def __init__(self, root, n=3):
        (root / ".halfmap").mkdir(parents=True)
        self.root = root
        self.names = [f"Micrographs/mic{i + 1}.mrc" for i in range(n)]
        self.positions = {}
        for index, name in enumerate(self.names):
            self.positions[name] = spread_positions(SHAPE, 35, 28.0, seed=index)
            self.write(name, micrograph(SHAPE, self.positions[name], 26.0, contrast=1.5, seed=index))
        self.list(self.names)

    def write(self, name, image):
        grid = ImageGrid(shape=image.shape, pixel_size_angstrom=PIXEL_SIZE)
        mrc.write_image(self.root / name, image.astype(np.float32), grid)

    def list(self, names):
        rows = "\n".join(f"{name} 1" for name in names)
        (self.root / "micrographs.star").write_text(
            "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnMicrographPixelSize\n_rlnVoltage\n"
            f"_rlnSphericalAberration\n_rlnAmplitudeContrast\n1 one {PIXEL_SIZE} 300 2.7 0.1\n\n"
            f"data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n{rows}\n"
        )

    def pick(self, **options):
        given = {"micrographs": self.root / "micrographs.star", "workers": 1, **DIAMETERS, **options}
        return halfmap.pick_log(**given)


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = Project(tmp_path / "project")
    monkeypatch.chdir(made.root)
    return made


def test_particles_are_found_and_listed_as_relion_lists_them(project):
    result = project.pick()
    assert result.main_output == result.folder / "autopick.star"
    picks = read_autopick(result.main_output, project.root)
    assert list(picks.micrographs) == project.names
    for name, true in project.positions.items():
        assert agreement(picks.in_micrograph(name).position_pixel, true, distance=6.5).f1 > 0.9
    one = star.read(result.folder / "Micrographs/mic1_autopick.star")
    labels = list(next(iter(one)).columns)
    assert labels[:5] == [
        "rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit", "rlnClassNumber", "rlnAnglePsi"
    ]  # fmt: skip
    assert "halfmapUid" in labels
    assert len(set(picks.uid)) == len(picks)


def test_summary_counts_the_picks_of_each_micrograph(project):
    result = project.pick()
    picks = read_autopick(result.main_output, project.root)
    summary = next(iter(star.read(result.folder / "summary.star")))
    counts = [int(text) for text in summary.text("rlnGroupNrParticles")]
    assert counts == [len(picks.in_micrograph(name)) for name in project.names]


def test_masks_can_be_read_again(project):
    image = micrograph(SHAPE, project.positions[project.names[1]], 26.0, contrast=1.5, seed=1)
    image[:, 250:] = 100 + 0.01 * noise(SHAPE)[:, 250:]
    project.write(project.names[1], image)
    result = project.pick()
    masks = read_masks(result.folder / "masks.star", project.root)
    assert list(masks) == project.names
    mask = masks[project.names[1]]
    assert mask.pixel_size_angstrom == 10
    assert "empty" in mask.reason
    assert mask.excludes([[300, 150]], PIXEL_SIZE)[0]
    assert not mask.excludes([[100, 150]], PIXEL_SIZE)[0]


def test_extraction_takes_the_picks(project):
    picked = project.pick()
    extracted = halfmap.extract(
        micrographs=project.root / "micrographs.star", picks=picked.main_output, box_pixel=48, workers=1
    )
    particles = relion.read_particles(extracted.main_output)
    picks = read_autopick(picked.main_output, project.root)
    np.testing.assert_array_equal(np.sort(particles.uid), np.sort(picks.uid))
    assert len(particles) > 60


def test_the_result_is_the_same_for_any_number_of_workers(project):
    alone, together = project.pick(), project.pick(workers=2)
    for name in ("autopick.star", "summary.star", "Micrographs/mic2_autopick.star"):
        first = (alone.folder / name).read_text().replace(alone.folder.name, "")
        assert first == (together.folder / name).read_text().replace(together.folder.name, "")


def test_a_killed_job_keeps_what_was_done_and_continues_to_the_same_result(project, monkeypatch):
    whole = project.pick(out=project.root / "whole")
    done = []

    def fail_on_the_third(task):
        if len(done) == 2:
            raise OSError("the machine gave out")
        done.append(task.name)
        return pick_one(task)

    pick_one = picking.pick_one
    monkeypatch.setattr(picking, "pick_one", fail_on_the_third)
    with pytest.raises(OSError, match="gave out"):
        project.pick(out=project.root / "part")
    monkeypatch.setattr(picking, "pick_one", pick_one)
    assert done == project.names[:2]
    assert len(list((project.root / "part/state").glob("*.safetensors"))) == 2
    continued = continue_job(project.root / "part", JOB, options=RunOptions(workers=1))
    for name in ("summary.star", "Micrographs/mic1_autopick.star", "Micrographs/mic3_autopick.star"):
        assert (continued.folder / name).read_text() == (whole.folder / name).read_text()


def test_nan_pixels_set_a_micrograph_aside_with_its_reason(project):
    image = micrograph(SHAPE, project.positions[project.names[2]], 26.0)
    image[7, 9] = np.nan
    project.write(project.names[2], image)
    result = project.pick()
    rejected = star.read(result.folder / "rejected.star")["micrographs"]
    assert rejected.text("rlnMicrographName").tolist() == [project.names[2]]
    assert "x=9, y=7" in rejected.text("halfmapReason")[0]
    assert list(read_autopick(result.main_output, project.root).micrographs) == project.names[:2]


def test_a_truncated_micrograph_is_set_aside(project):
    path = project.root / project.names[0]
    path.write_bytes(path.read_bytes()[:5000])
    result = project.pick()
    rejected = star.read(result.folder / "rejected.star")["micrographs"]
    assert rejected.text("rlnMicrographName").tolist() == [project.names[0]]


def test_a_micrograph_of_another_size_is_set_aside(project):
    project.write(project.names[0], noise((200, 340)))
    reason = star.read(project.pick().folder / "rejected.star")["micrographs"].text("halfmapReason")[0]
    assert "must have the size of its optics group" in reason


def test_mostly_bad_micrographs_end_the_job(project):
    for name in project.names:
        project.write(name, np.full(SHAPE, np.nan))
    with pytest.raises(JobFailed, match="At most a tenth of the micrographs may be bad"):
        project.pick()


def test_micrographs_that_would_share_a_coordinate_file_are_refused(project):
    project.write("Micrographs/mic1.mrcs", noise(SHAPE))
    (project.root / "Micrographs/mic1.mrcs").rename(project.root / "Micrographs/mic1.map")
    project.list(["Micrographs/mic1.mrc", "Micrographs/mic1.map"])
    with pytest.raises((InconsistentDataError, JobFailed), match=r"mic1"):
        project.pick()


def test_without_picks_the_job_ends_well_and_says_so(project):
    for index, name in enumerate(project.names):
        project.write(name, noise(SHAPE, seed=50 + index))
    result = project.pick()
    assert len(read_autopick(result.main_output, project.root)) == 0
    assert "Nothing stood out of the noise in 3 of 3 micrographs" in (result.folder / "report.html").read_text()


def test_page_shows_every_micrograph(project):
    text = (project.pick().folder / "report.html").read_text()
    assert all(name in text for name in project.names)
    assert "figure of merit" in text


def test_job_json_holds_the_resolved_parameters(project):
    values = json.loads((project.pick().folder / "job.json").read_text())
    assert values["command"] == "pick log"
    assert values["parameters"]["max_resolution_angstrom"] == 20
