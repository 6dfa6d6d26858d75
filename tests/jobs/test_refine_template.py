"""``halfmap refine-template``: Leopard-EM's files in and out, no row lost, and mistakes told before work begins."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

import halfmap
from halfmap.cli.main import main
from halfmap.data.volumes import Volume
from halfmap.errors import FormatError, InconsistentDataError, InputError, JobFailed, ProjectError
from halfmap.geometry.euler import euler_from_array
from halfmap.geometry.rotations import angular_distance_degrees, matrix_from_euler
from halfmap.grid import ImageGrid
from halfmap.io import leopard, leopard_config, mrc, relion, star
from halfmap.io.leopard import LeopardColumns
from halfmap.jobs import refine_template_run
from halfmap.jobs.refine_template import JOB
from halfmap.project.options import RunOptions
from halfmap.project.runner import continue_job
from support import template_particles
from support.template_particles import BOX, PIXEL, SIDE

ROWS = [*range(1, 8), *range(3, 7)]
N_FIRST = 7
QUICK = {"defocus_min_angstrom": 0.0, "defocus_max_angstrom": 0.0, "workers": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with two micrographs of the same particles, a template and the table of a search."""
    root = tmp_path_factory.mktemp("project")
    (root / ".halfmap").mkdir()
    image, candidates, rotations, position = template_particles.micrograph()
    height, width = image.shape
    grid = ImageGrid(shape=(height, width), pixel_size_angstrom=PIXEL)
    maps = grid.with_shape((height - SIDE + 1, width - SIDE + 1))
    for name in ("a.mrc", "b.mrc"):
        mrc.write_image(root / name, image.numpy(), grid)
    values = template_particles.density()
    mrc.write_volume(root / "template.mrc", Volume(values=values, grid=ImageGrid.cubic(SIDE, PIXEL)))
    for name, value in (("mean.mrc", 0.5), ("deviation.mrc", 1.25)):
        mrc.write_image(root / name, np.full(maps.shape, value, np.float32), maps)
    rows = ROWS
    n = len(rows)
    angles = euler_from_array(candidates.rotations.numpy()[rows])
    centre = candidates.position_pixel.numpy().astype(int)[rows]
    columns = {name: ["0"] * n for name in (leopard.INDEX, *leopard.MATCH_COLUMNS)}

    def texts(values):
        return [repr(float(value)) for value in values]

    optics = candidates.optics
    columns |= {
        leopard.INDEX: [str(i) for i in range(n)],
        "particle_index": [str(i) for i in range(n)],
        "defocus_u": texts(optics.defocus_u_angstrom[rows]),
        "defocus_v": texts(optics.defocus_v_angstrom[rows]),
        "astigmatism_angle": ["30.0"] * n,
        "pixel_size": ["3.0"] * n,
        "refined_pixel_size": ["3.0"] * n,
        "voltage": ["300.0"] * n,
        "spherical_aberration": ["2.7"] * n,
        "amplitude_contrast_ratio": ["0.07"] * n,
        "phase_shift": ["90.0"] * n,
        "micrograph_path": ["a.mrc"] * N_FIRST + ["b.mrc"] * (n - N_FIRST),
        "template_path": ["template.mrc"] * n,
        "correlation_average_path": ["mean.mrc"] * n,
        "correlation_variance_path": ["deviation.mrc"] * n,
        **{name: [""] * n for name in ("even_zernikes", "odd_zernikes", "mag_matrix")},
    }
    for i, axis in enumerate("xy"):
        columns[f"pos_{axis}_img"] = [str(value) for value in centre[:, i]]
        columns[f"pos_{axis}"] = [str(value - SIDE // 2) for value in centre[:, i]]
        columns[f"pos_{axis}_img_angstrom"] = [str(value * PIXEL) for value in centre[:, i]]
    for i, name in enumerate(("phi", "theta", "psi")):
        columns[name] = texts(angles[:, i])
    LeopardColumns(path=root, columns={**columns, "my_note": ["keep me"] * n}).write(root / "match.csv")
    return root, rotations[rows], position[rows]


@pytest.fixture
def project(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return made[0]


def table_of(project, **changed):
    """Write a copy of the table with some columns changed, and return its name."""
    columns = dict(LeopardColumns.read(project / "match.csv").columns)
    for name, change in changed.items():
        if change is None:
            del columns[name]
        else:
            columns[name] = [change(i, text) for i, text in enumerate(columns[name])]
    LeopardColumns(path=project, columns=columns).write(project / "changed.csv")
    return "changed.csv"


def refine(**values):
    return halfmap.refine_template(
        **{"particles": "match.csv", "template": "template.mrc", "box_pixel": BOX, **QUICK, **values}
    )


def poses(path, name=""):
    table = LeopardColumns.read(path)
    return matrix_from_euler(*(torch.from_numpy(table.numbers(name + angle)) for angle in ("phi", "theta", "psi")))


def test_a_configuration_is_refined_and_its_table_feeds_the_next_refinement(project, made, tmp_path):
    _, rotations, position = made
    config = yaml.safe_load(leopard_config.default_text("refine_template"))
    config["template_volume_path"] = "template.mrc"
    config["particle_stack"] = {
        "df_path": "match.csv", "extracted_box_size": [BOX, BOX], "original_template_size": [SIDE, SIDE]
    }  # fmt: skip
    (project / "c.yaml").write_text(yaml.safe_dump(config))
    result = halfmap.refine_template(config="c.yaml", defocus_min_angstrom=0, defocus_max_angstrom=0, workers=1)
    table = LeopardColumns.read(result.main_output)
    assert tuple(table.columns)[:52] == (leopard.INDEX, *leopard.REFINED_COLUMNS)
    assert table.columns["my_note"] == ["keep me"] * len(ROWS)
    assert table.columns["psi"] == LeopardColumns.read(project / "match.csv").columns["psi"]
    found = poses(result.main_output, "refined_")
    after = angular_distance_degrees(found, rotations)
    before = angular_distance_degrees(poses(project / "match.csv"), rotations)
    assert float(after.median()) < float(before.median())
    centre = np.stack([table.numbers(f"refined_pos_{axis}_img") for axis in "xy"], axis=-1)
    assert np.median(np.linalg.norm(centre - position.numpy(), axis=1)) < 0.2
    z, mip = table.numbers("refined_scaled_mip"), table.numbers("refined_mip")
    np.testing.assert_allclose(z, (mip - 0.5) / 1.25, atol=1e-5)
    assert (table.numbers("uncertainty_psi_degrees") > 0).all()
    assert set(table.numbers("refined_pixel_size")) == {3.0}
    again = refine(particles=result.main_output, template="template.mrc")
    later = LeopardColumns.read(again.main_output)
    assert np.abs(later.numbers("refined_scaled_mip") - z).max() < 0.2
    rough = LeopardColumns.read(refine(particles=again.main_output, polish=False, orientations=False).main_output)
    assert set(rough.columns["uncertainty_psi_degrees"]) == {""}  # what the polish has said no longer holds
    particles = relion.read_particles(result.folder / "particles.star")
    np.testing.assert_allclose(particles["position_pixel"], centre, atol=1e-5)
    cistem = star.read(result.folder / "particles_cistem.star").tables[0]
    np.testing.assert_allclose(cistem.numbers("cisTEMOriginalXPosition"), centre[:, 0] * PIXEL, atol=1e-4)
    page = (result.folder / "report.html").read_text()
    for word in ("Scores before and after", "What has changed", "Uncertainties", "z before"):
        assert word in page
    assert "Needs at most" in (result.folder / "run.log").read_text()


def test_a_bad_particle_is_set_aside_and_keeps_its_row(project):
    name = table_of(project, pos_x_img=lambda i, text: "5000" if i == 3 else text)
    result = refine(particles=name)
    table = LeopardColumns.read(result.main_output)
    assert len(table) == len(ROWS)
    assert "outside the micrograph of 360×400 px" in table.columns["set_aside"][3]
    assert [bool(text) for text in table.columns["set_aside"]].count(True) == 1
    assert table.columns["refined_psi"][3] == repr(round(float(table.columns["psi"][3]), 6))
    assert table.numbers("refined_pos_x_img")[3] == 5000
    assert np.isfinite(table.numbers("refined_mip")).all()


def test_particles_of_a_relion_table_are_refined_as_those_of_a_csv(project):
    first = refine(polish=False, orientations=False, statistics="none")
    particles = relion.read_particles(first.folder / "particles.star")
    # an offset in the origin, and aberrations in the optics table, as a refinement leaves them
    moved = particles.with_columns(
        position_pixel=particles["position_pixel"] + 1, origin_angstrom=np.full((len(particles), 2), PIXEL)
    )
    optics = moved.optics.with_columns(even_zernike=np.array([[0.0, 0.0, 0.0, 0.0, 20000.0]]))
    relion.write_particles(project / "from_relion.star", moved)
    relion.write_particles(project / "aberrated.star", replace(moved, optics=optics))
    star_file, table, other = (
        LeopardColumns.read(refine(particles=name, statistics="none", polish=False, orientations=False).main_output)
        for name in ("from_relion.star", first.main_output, "aberrated.star")
    )
    for name in ("refined_pos_x_img", "refined_mip", "refined_psi", "refined_phi"):
        np.testing.assert_allclose(star_file.numbers(name), table.numbers(name), atol=2e-3)
    np.testing.assert_allclose(
        star_file.numbers("defocus_u") + star_file.numbers("refined_relative_defocus"),
        table.numbers("defocus_u") + table.numbers("refined_relative_defocus"), atol=1,
    )  # fmt: skip
    assert np.abs(other.numbers("refined_mip") - star_file.numbers("refined_mip")).max() > 0.3
    assert other.aberrations()[0].even_zernike[4] == 20000
    with pytest.raises(InputError, match=r"got none in line 2; .*--statistics none"):
        refine(particles="from_relion.star")
    relion.write_particles(project / "bare.star", particles.without_columns("rotation"))
    with pytest.raises(InconsistentDataError, match="got none of rlnAngleRot"):
        refine(particles="bare.star", statistics="none")


def test_a_job_that_was_killed_goes_on_with_the_same_result(project, monkeypatch):
    whole = refine(out="whole")
    real, calls = refine_template_run.refine_particles, []

    def dies(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(refine_template_run, "refine_particles", dies)
    with pytest.raises(KeyboardInterrupt):
        refine(out="cut")
    with pytest.raises(SystemExit) as ended:
        main(["refine-template", "--continue", "cut", "--workers", "1"])
    assert ended.value.code == 0
    assert len(calls) == 3  # the first micrograph was not done again
    assert (project / "cut" / "particles.csv").read_bytes() == whole.main_output.read_bytes()


def test_a_job_does_not_go_on_with_micrographs_or_maps_that_have_changed(project, monkeypatch):
    grid = ImageGrid(shape=(400 - SIDE + 1, 360 - SIDE + 1), pixel_size_angstrom=PIXEL)
    mrc.write_image(project / "moving.mrc", np.full(grid.shape, 1.5, np.float32), grid)
    name = table_of(project, correlation_variance_path=lambda i, text: "moving.mrc")

    def stops(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(refine_template_run, "refine_particles", stops)
        with pytest.raises(KeyboardInterrupt):
            refine(particles=name, out="moved", polish=False, orientations=False)
    mrc.write_image(project / "moving.mrc", np.full(grid.shape, 1.6, np.float32), grid)
    with pytest.raises(ProjectError, match=r"moving.mrc must be as it was when the job began; got another content"):
        continue_job("moved", JOB, options=RunOptions(workers=1))
    mrc.write_image(project / "moving.mrc", np.full(grid.shape, 1.5, np.float32), grid)
    assert continue_job("moved", JOB, options=RunOptions(workers=1)).main_output.exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"box_pixel": SIDE}, "--box must be even and larger than the template, 40 px; got 40 px"),
        ({"template_pixel_size_angstrom": 2.0}, "must have the pixel size of the micrographs, 3 Å; got 2 Å"),
        ({"particles": None}, "--particles must be given"),
        ({"pixel_size_min_angstrom": -3.0}, r"--pixel-size-min must be above −3 Å, .*; got -3 Å"),
        ({"compat": "leopard", "pixel_size_max_angstrom": 0.1}, "--compat leopard must leave the pixel size"),
    ],
)
def test_wrong_settings_are_told_before_work_begins(project, values, said):
    with pytest.raises(InputError, match=said):
        refine(**values)


def test_missing_columns_maps_and_micrographs_are_named_with_what_to_do(project):
    with pytest.raises(FormatError, match="defocus_u among them"):
        refine(particles=table_of(project, defocus_u=None))
    with pytest.raises(InputError, match=r"got no file .*gone.mrc; .*--statistics none"):
        refine(particles=table_of(project, correlation_average_path=lambda i, text: "gone.mrc" if i else text))
    with pytest.raises(InputError, match=r"got none in line 2; .*--statistics none"):
        refine(particles=table_of(project, correlation_variance_path=lambda i, text: ""))
    with pytest.raises(JobFailed, match="At most a tenth of the particles"):
        refine(particles=table_of(project, micrograph_path=lambda i, text: "gone.mrc" if i < N_FIRST else text))
    free = table_of(project, correlation_variance_path=lambda i, text: "")
    table = LeopardColumns.read(refine(particles=free, statistics="none", polish=False, orientations=False).main_output)
    np.testing.assert_allclose(table.numbers("refined_scaled_mip"), table.numbers("refined_mip"))


def test_what_does_not_belong_together_is_refused(project):
    grid = ImageGrid(shape=(400, 360), pixel_size_angstrom=PIXEL)
    mrc.write_image(project / "small.mrc", np.ones((300, 300), np.float32), grid.with_shape((300, 300)))
    maps = grid.with_shape((400 - SIDE + 1, 360 - SIDE + 1))
    mrc.write_image(project / "zero.mrc", np.zeros(maps.shape, np.float32), maps)
    with pytest.raises(FormatError, match="expected a map of 321×361 px, as a template of 40 px makes it"):
        refine(particles=table_of(project, correlation_variance_path=lambda i, text: "small.mrc"))
    with pytest.raises(JobFailed, match="standard deviations above 0 about the particles; found 0"):
        refine(particles=table_of(project, correlation_variance_path=lambda i, text: "zero.mrc"))
    with pytest.raises(FormatError, match=r"line 4: expected the pixel size that most .*, 3 Å; found 1\.5"):
        refine(particles=table_of(project, pixel_size=lambda i, text: "1.5" if i == 2 else text))
    with pytest.raises(FormatError, match="line 3: expected a voltage of 40 to 1500 kV; found 0"):
        refine(particles=table_of(project, voltage=lambda i, text: "0" if i == 1 else text))


def test_each_particle_is_judged_by_the_maps_of_its_own_search(project):
    grid = ImageGrid(shape=(400 - SIDE + 1, 360 - SIDE + 1), pixel_size_angstrom=PIXEL)
    mrc.write_image(project / "wide.mrc", np.full(grid.shape, 2.0, np.float32), grid)
    name = table_of(project, correlation_variance_path=lambda i, text: "wide.mrc" if i % 2 else text)
    table = LeopardColumns.read(refine(particles=name, polish=False, orientations=False).main_output)
    deviation = np.where(np.arange(len(ROWS)) % 2, 2.0, 1.25)
    expected = (table.numbers("refined_mip") - 0.5) / deviation
    np.testing.assert_allclose(table.numbers("refined_scaled_mip"), expected, atol=1e-5)


def test_a_template_of_nearly_the_same_pixel_size_is_taken_and_that_is_said(project):
    result = refine(template_pixel_size_angstrom=3.02, polish=False, orientations=False)
    said = "The pixel size of template.mrc, 3.02 Å, is taken for that of the micrographs, 3 Å"
    assert said in (result.folder / "run.log").read_text()
    assert said in (result.folder / "report.html").read_text()


def test_a_configuration_must_state_the_sides_of_its_template(project):
    text = leopard_config.default_text("refine_template").replace("/path/to/template.mrc", "template.mrc")
    (project / "sides.yaml").write_text(text.replace("/path/to/match_results.csv", "match.csv"))
    with pytest.raises(InputError, match=r"must be the sides of its template, 40×40 px in .*; got 512×512 px"):
        halfmap.refine_template(config="sides.yaml")


def test_a_configuration_is_written_once_and_one_for_movies_is_refused(project, capsys):
    (project / "new.yaml").unlink(missing_ok=True)
    for code in (0, 2):
        with pytest.raises(SystemExit) as ended:
            main(["refine-template", "--write-config", "new.yaml"])
        assert ended.value.code == code
    assert "which exists" in capsys.readouterr().err
    text = (project / "new.yaml").read_text()
    assert text == leopard_config.default_text("refine_template")
    (project / "m.yaml").write_text(text.replace("enabled: false\n  movie_path", "enabled: true\n  movie_path"))
    with pytest.raises(InputError, match="movies are not read"):
        halfmap.refine_template(config="m.yaml")
    (project / "u.yaml").write_text(text.replace("defocus_step:", "defocus_stp:"))
    with pytest.raises(FormatError, match="did you mean `defocus_step`"):
        halfmap.refine_template(config="u.yaml")


def test_leopard_em_s_own_way_keeps_whole_pixels_and_its_square_root(project):
    table = LeopardColumns.read(refine(compat="leopard", tilt_step_degrees=1.25, psi_step_degrees=1.5).main_output)
    assert np.all(table.numbers("refined_pos_x_img") % 1 == 0)
    expected = (table.numbers("refined_mip") - 0.5) / np.sqrt(1.25)
    np.testing.assert_allclose(table.numbers("refined_scaled_mip"), expected, atol=1e-3)
