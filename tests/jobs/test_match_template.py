"""``halfmap match-template``: Leopard-EM's configuration in, its maps and table out, and what is told of bad input."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import yaml

import halfmap
from halfmap.data.micrographs import MicrographSet
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.volumes import Volume
from halfmap.errors import FormatError, InputError, ShapeError
from halfmap.grid import ImageGrid
from halfmap.io import leopard, leopard_config, mrc, relion, star
from halfmap.io.leopard import LeopardColumns
from halfmap.jobs import match_template_run
from halfmap.jobs.match_template import JOB
from halfmap.project.options import RunOptions
from halfmap.project.runner import continue_job
from halfmap.template_matching.global_search.problem import MatchProblem
from support.template_scenes import DEFOCUS, PIXEL_SIZE, SIDE, lopsided, noise, scene

SHAPE = (91, 110)
CORNER, ANGLES = (40, 30), (36.0, 58.0, 62.0)
SETTINGS = {
    "micrograph": "mic.mrc", "template": "template.mrc", "defocus_u_angstrom": DEFOCUS, "theta_step_degrees": 20.0,
    "psi_step_degrees": 20.0, "defocus_min_angstrom": 0.0, "defocus_max_angstrom": 0.0, "peak_distance": 20.0,
    "false_positives": 0.01, "workers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def micrograph():
    return scene(SHAPE, [ANGLES], [CORNER], strength=14.0)


@pytest.fixture
def project(tmp_path, monkeypatch, micrograph):
    root = tmp_path / "project"
    (root / ".halfmap").mkdir(parents=True)
    monkeypatch.chdir(root)
    mrc.write_image(root / "mic.mrc", micrograph, ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_SIZE))
    volume = Volume(values=lopsided(), grid=ImageGrid.cubic(SIDE, PIXEL_SIZE))
    mrc.write_volume(root / "template.mrc", volume)
    return root


def test_a_particle_is_written_for_leopard_relion_and_cistem(project):
    job = halfmap.match_template(**SETTINGS)
    with open(job.main_output) as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0])[1:] == leopard.MATCH_COLUMNS
    assert (int(rows[0]["pos_x"]), int(rows[0]["pos_y"])) == pytest.approx(CORNER, abs=1)
    assert int(rows[0]["pos_x_img"]) == int(rows[0]["pos_x"]) + SIDE // 2
    maps = {name: mrc.read_image(project / rows[0][f"{name}_path"]) for name in ("mip", "scaled_mip", "phi", "defocus")}
    usual = [mrc.read_image(project / rows[0][f"correlation_{name}_path"]) for name in ("average", "variance")]
    assert all(one.shape == (90 - SIDE + 1, 110 - SIDE + 1) for one in (*maps.values(), *usual))
    assert np.allclose(maps["scaled_mip"], (maps["mip"] - usual[0]) / usual[1], atol=1e-4)
    # Leopard-EM's file of the variance holds the standard deviation, and so does ours
    names = ("correlation_variance.mrc", "correlation_standard_deviation.mrc")
    assert np.array_equal(*(mrc.read_image(job.folder / name) for name in names))
    found = relion.read_particles(job.folder / "particles.star")
    centre = np.array(CORNER) + SIDE // 2
    assert np.abs(found["position_pixel"][0] - centre).max() < 0.6
    assert found["defocus_u_angstrom"][0] == DEFOCUS
    of_cistem = star.read(job.folder / "particles_cistem.star").tables[0]
    assert of_cistem.numbers("cisTEMOriginalXPosition")[0] == pytest.approx(
        centre[0] * PIXEL_SIZE, abs=0.6 * PIXEL_SIZE
    )
    histogram = np.genfromtxt(job.folder / "histogram.csv", delimiter=",", names=True)
    assert histogram["count"].sum() == pytest.approx(histogram["expected_of_noise"].sum(), rel=1e-5)
    assert "Scaled MIP" in (job.folder / "report.html").read_text()


def test_a_configuration_of_leopard_em_gives_the_same_search_and_flags_go_before_it(project):
    config = yaml.safe_load(leopard_config.default_text("match_template"))
    config |= {"micrograph_path": "mic.mrc", "template_volume_path": "template.mrc"}
    config["optics_group"] |= {"pixel_size": PIXEL_SIZE, "defocus_u": DEFOCUS, "defocus_v": DEFOCUS}
    config["defocus_search_config"]["enabled"] = False
    config["orientation_search_config"] |= {"psi_step": 30.0, "theta_step": 30.0}
    (project / "match.yaml").write_text(yaml.safe_dump(config))
    flags = {name: SETTINGS[name] for name in ("theta_step_degrees", "psi_step_degrees", "peak_distance", "workers")}
    first = halfmap.match_template(config="match.yaml", **flags, false_positives=0.01)
    second = halfmap.match_template(**SETTINGS)
    assert np.array_equal(*(mrc.read_image(job.folder / "mip.mrc") for job in (first, second)))
    config["optics_group"] |= {"odd_zernikes": {"Z33c": 3e4}, "mag_matrix": [1.02, 0.0, 0.0, 0.98]}
    (project / "match.yaml").write_text(yaml.safe_dump(config))
    values = JOB.config.read(project, project / "match.yaml")
    assert values["odd_zernike"] == (0, 0, 0, 0, 0, 3e4)
    assert values["magnification"] == pytest.approx((1 / 0.98, 0, 0, 1 / 1.02))
    config["optics_group"] |= {"odd_zernikes": {"Z9": 1.0}}
    (project / "match.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"odd_zernikes.*got Z9, where Z31c"):
        halfmap.match_template(config="match.yaml")
    config["optics_group"]["odd_zernikes"] = None
    config["orientation_search_config"]["base_grid_method"] = "healpix"
    (project / "match.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="must be uniform"):
        halfmap.match_template(config="match.yaml")
    config["optics_group"]["voltge"] = config["optics_group"].pop("voltage")
    (project / "match.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(FormatError, match="did you mean `voltage`"):
        halfmap.match_template(config="match.yaml")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"template": None}, InputError, "--template must be given"),
        ({"defocus_u_angstrom": None}, InputError, "--defocus-u must be given"),
        ({"pixel_size_angstrom": 3.0}, InputError, "must have the pixel size of the micrograph, 3 Å; got 4 Å"),
        ({"pixel_size_min_angstrom": -4.5}, InputError, "--pixel-size-min must be above −4 Å"),
        ({"template": "large.mrc"}, InputError, "must be smaller than the micrograph"),
        ({"template": "odd.mrc"}, ShapeError, "a cube of an even side"),
        ({"voltage_kv": 300e3}, InputError, "voltage.*must be.*40.*1500"),
        ({"symmetry": "C1000"}, InputError, "A symmetry must be one of"),
        ({"defocus_min_angstrom": 5.0}, InputError, "--defocus-max must be at least --defocus-min"),
    ],
)
def test_bad_input_is_told_before_any_work(project, changes, error, words):
    for name, side in (("large", 90), ("odd", 25)):
        values = lopsided().new_zeros((side,) * 3)
        values[:SIDE, :SIDE, :SIDE] = lopsided()
        volume = Volume(values=values, grid=ImageGrid.cubic(side, PIXEL_SIZE))
        mrc.write_volume(project / f"{name}.mrc", volume)
    given = {name: value for name, value in {**SETTINGS, **changes}.items() if value is not None}
    with pytest.raises(error, match=words):
        halfmap.match_template(**given)


@pytest.fixture
def many(project):
    """Three micrographs, the second empty, the third with the particle elsewhere, and one without contrast."""
    grid = ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_SIZE)
    mrc.write_image(project / "empty.mrc", noise(SHAPE, 7), grid)
    mrc.write_image(project / "other.mrc", scene(SHAPE, [ANGLES], [(12, 50)], strength=14.0, number=3), grid)
    mrc.write_image(project / "flat.mrc", np.ones(SHAPE, np.float32), grid)
    optics = OpticsGroups(
        columns={
            "optics_group": np.array([1]), "voltage_kv": np.array([300.0]), "spherical_aberration_mm": np.array([2.7]),
            "amplitude_contrast": np.array([0.07]), "micrograph_pixel_size_angstrom": np.array([PIXEL_SIZE]),
        }
    )  # fmt: skip
    names = ["mic.mrc", "empty.mrc", "other.mrc", "flat.mrc"]
    columns = {name: np.full(4, DEFOCUS) for name in ("defocus_u_angstrom", "defocus_v_angstrom")}
    columns |= {"micrograph_name": np.array(names, dtype=object), "optics_group": np.ones(4, dtype=np.int64)}
    table = MicrographSet(columns=columns, optics=optics)
    relion.write_micrographs(project / "mics.star", table)
    return table


FEW = {"phi_max_degrees": 80.0, "theta_min_degrees": 40.0, "theta_max_degrees": 80.0, "psi_max_degrees": 100.0}
ONE = {**SETTINGS, **FEW}
MANY = {name: value for name, value in ONE.items() if name not in ("micrograph", "defocus_u_angstrom")}


def test_many_micrographs_make_one_table_and_one_page_and_bad_ones_are_set_aside(project, many):
    alone = halfmap.match_template(**ONE)
    job = halfmap.match_template(**MANY, micrographs="mics.star")
    with open(job.main_output) as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0])[1:] == leopard.MATCH_COLUMNS
    assert [row["particle_index"] for row in rows] == [str(i) for i in range(len(rows))]
    by_name = {name: [row for row in rows if row["micrograph_path"] == name] for name in ("mic.mrc", "other.mrc")}
    assert (int(by_name["mic.mrc"][0]["pos_x"]), int(by_name["mic.mrc"][0]["pos_y"])) == pytest.approx(CORNER, abs=1)
    assert int(by_name["other.mrc"][0]["pos_x"]) == pytest.approx(12, abs=1)
    assert {row["micrograph_path"] for row in rows} <= {"mic.mrc", "other.mrc", "empty.mrc"}
    maps = [mrc.read_image(path) for path in (alone.folder / "mip.mrc", job.folder / "maps/mic/mip.mrc")]
    assert np.array_equal(*maps)
    assert mrc.read_image(project / by_name["other.mrc"][0]["scaled_mip_path"]).max() > 6
    rejected = star.read(job.folder / "rejected.star").tables[0]
    assert list(rejected.columns["rlnMicrographName"]) == [b"flat.mrc"]
    assert b"some contrast" in rejected.columns["halfmapReason"][0]
    page = (job.folder / "report.html").read_text()
    for word in ("highest scaled MIP", "other.mrc: scaled MIP", "set aside"):
        assert word in page
    assert not (job.folder / "state").exists()
    refined = halfmap.refine_template(
        particles=job.main_output, template="template.mrc", box_pixel=SIDE + 8, polish=False, workers=1
    )
    assert refined.main_output.exists()


def test_many_micrographs_that_were_stopped_go_on_where_they_were(project, many, monkeypatch):
    whole = halfmap.match_template(**MANY, micrographs="mics.star")
    advance, begun = match_template_run.search.advance, []

    def stopping(problem, state, executor, progress):
        begun.append(state.n_done)
        if len(begun) == 2:
            raise OSError("the machine gave out")
        yield from advance(problem, state, executor, progress)

    monkeypatch.setattr(match_template_run.search, "advance", stopping)
    with pytest.raises(OSError, match="gave out"):
        halfmap.match_template(**MANY, micrographs="mics.star", out="halted")
    again = continue_job("halted", JOB, options=RunOptions(workers=1))
    assert len(begun) == 4  # the first micrograph once, the second twice, the third once
    texts = [path.read_text().replace(str(path.parent.relative_to(project)), "job")
             for path in (whole.main_output, again.main_output)]  # fmt: skip
    assert texts[0] == texts[1]


def test_aberrations_of_a_table_and_of_flags_are_the_same(project, many):
    optics = many.optics.with_columns(
        beam_tilt_mrad=np.array([[30.0, -20.0]]), even_zernike=np.array([[0.0, 0.0, 0.0, 0.0, 9000.0]]),
        magnification_matrix=np.array([[[1.02, 0.0], [0.01, 0.99]]]),
    )  # fmt: skip
    relion.write_micrographs(project / "one.star", replace(many.take(np.array([0])), optics=optics))
    first = halfmap.match_template(**MANY, micrographs="one.star")
    second = halfmap.match_template(
        **ONE, beam_tilt_mrad=(30.0, -20.0), even_zernike=(0.0, 0.0, 0.0, 0.0, 9000.0),
        magnification=(1.02, 0.0, 0.01, 0.99),
    )  # fmt: skip
    mips = [mrc.read_image(path) for path in (first.folder / "maps/mic/mip.mrc", second.folder / "mip.mrc")]
    assert np.array_equal(*mips)
    plain = mrc.read_image(halfmap.match_template(**ONE).folder / "mip.mrc")
    assert np.abs(mips[0] - plain).max() > 0.5
    cells = LeopardColumns.read(second.main_output).aberrations()
    if cells:
        assert cells[0].magnification == pytest.approx((1.02, 0.0, 0.01, 0.99))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"micrograph": "mic.mrc"}, "Either --micrograph or --micrographs"),
        ({"magnification": (0.0, 0.0, 0.0, 0.0)}, "--magnification must be near 1,0,0,1"),
        ({"pixel_size_angstrom": 3.0}, "must have the pixel size of the micrographs, 3 Å; got 4 Å"),
    ],
)
def test_what_does_not_fit_many_micrographs_is_told_before_any_work(project, many, changes, words):
    with pytest.raises(InputError, match=words):
        halfmap.match_template(**{**MANY, "micrographs": "mics.star", **changes})


def test_a_job_that_was_stopped_goes_on_and_ends_alike(project, monkeypatch):
    monkeypatch.setattr(MatchProblem, "units_of_chunk", 150)
    whole = halfmap.match_template(**SETTINGS)
    advance, begun = match_template_run.search.advance, []
    ends = {2: KeyboardInterrupt(), 4: OSError("the machine gave out")}

    def stopping(problem, state, executor, progress):
        begun.append(state.n_done)
        for further in advance(problem, state, executor, progress):
            yield further
            if further.n_done in ends:
                raise ends.pop(further.n_done)

    monkeypatch.setattr(match_template_run.search, "advance", stopping)
    with pytest.raises(KeyboardInterrupt):
        halfmap.match_template(**SETTINGS, out="stopped")
    monkeypatch.setattr(match_template_run, "SAVED_EVERY_SECONDS", 0.0)
    with pytest.raises(OSError, match="gave out"):
        continue_job("stopped", JOB, options=RunOptions(workers=1))
    again = continue_job("stopped", JOB, options=RunOptions(workers=1))
    assert begun == [0, 2, 4]
    for name in ("mip", "correlation_average", "correlation_variance", "orientation_psi"):
        assert np.array_equal(*(mrc.read_image(job.folder / f"{name}.mrc") for job in (whole, again)))
