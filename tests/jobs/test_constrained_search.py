"""``halfmap constrained-search``: Leopard-EM's files in and out, and which particles have the domain."""

import csv

import numpy as np
import pytest
import yaml

import halfmap
from halfmap.cli.main import main
from halfmap.data.volumes import Volume
from halfmap.errors import FormatError, InputError
from halfmap.geometry.euler import array_from_euler, euler_from_array
from halfmap.grid import ImageGrid
from halfmap.io import leopard, leopard_config, mrc, relion
from halfmap.io.leopard import LeopardColumns
from halfmap.jobs.constrained_search import JOB
from support import domain_scenes
from support.domain_scenes import AXIS, CENTRE, STATES_DEGREES
from support.template_particles import BOX, PIXEL, SIDE, density

FLAGS = {
    "particles": "refined.csv", "template": "domain.mrc", "particle_template": "body.mrc", "box_pixel": BOX,
    "axis": AXIS, "centre_angstrom": CENTRE, "turn_min_degrees": -20.0, "turn_max_degrees": 20.0,
    "turn_step_degrees": 4.0, "tilt_max_degrees": 4.0, "tilt_step_degrees": 4.0, "whitening": False, "workers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a micrograph, both templates, the table of a refinement and that of a search."""
    root = tmp_path_factory.mktemp("project")
    (root / ".halfmap").mkdir()
    scene = domain_scenes.scene()
    grid = ImageGrid(shape=tuple(scene.micrograph.shape), pixel_size_angstrom=PIXEL)
    mrc.write_image(root / "a.mrc", scene.micrograph.numpy(), grid)
    cube = ImageGrid.cubic(SIDE, PIXEL)
    for name, values in (("domain.mrc", domain_scenes.domain_density()), ("body.mrc", density())):
        mrc.write_volume(root / name, Volume(values=values, grid=cube))
    maps = grid.with_shape(tuple(side - SIDE + 1 for side in grid.shape))
    for name, value in (("mean.mrc", 0.5), ("deviation.mrc", 1.25)):
        mrc.write_image(root / name, np.full(maps.shape, value, np.float32), maps)
    n = len(scene.state)
    optics = scene.candidates.optics
    numbers = dict(zip(("phi", "theta", "psi"), euler_from_array(scene.candidates.rotations.numpy()).T, strict=True))
    numbers |= {f"pos_{axis}_img": np.round(scene.position.numpy()[:, i]) for i, axis in enumerate("xy")}
    numbers |= {name: getattr(optics, f"{name}_angstrom").numpy() for name in ("defocus_u", "defocus_v")}
    same = {"astigmatism_angle": "30", "pixel_size": "3.0", "refined_pixel_size": "3.0", "voltage": "300",
            "spherical_aberration": "2.7", "amplitude_contrast_ratio": "0.07", "phase_shift": "90",
            "micrograph_path": "a.mrc", "template_path": "body.mrc"}  # fmt: skip
    columns = {name: [same.get(name, "0")] * n for name in (leopard.INDEX, *leopard.MATCH_COLUMNS)}
    columns |= {name: [repr(float(value)) for value in values] for name, values in numbers.items()}
    columns |= {name: [""] * n for name in ("even_zernikes", "odd_zernikes", "mag_matrix")}
    LeopardColumns(path=root, columns=columns).write(root / "searched.csv")
    for i, axis in enumerate("xy"):
        columns[f"refined_pos_{axis}_img"] = [repr(float(place)) for place in scene.position.numpy()[:, i]]
    LeopardColumns(path=root, columns=columns).write(root / "refined.csv")
    columns |= {"correlation_average_path": ["mean.mrc"] * n, "correlation_variance_path": ["deviation.mrc"] * n}
    LeopardColumns(path=root, columns={name: texts[:1] for name, texts in columns.items()}).write(root / "search.csv")
    return root, scene


@pytest.fixture
def project(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return made[0]


def search(**values):
    return halfmap.constrained_search(**{**FLAGS, **values})


def config_of(project, **orientations):
    config = yaml.safe_load(leopard_config.default_text("constrained_search"))
    stack = {"extracted_box_size": [SIDE + 6, SIDE + 6], "original_template_size": [SIDE, SIDE]}
    config |= {"template_volume_path": "domain.mrc", "center_vector": list(CENTRE)}
    config["particle_stack_reference"] = {"df_path": "refined.csv", **stack}
    config["particle_stack_constrained"] = {"df_path": "search.csv", **stack}
    config["orientation_refinement_config"] |= orientations
    (project / "c.yaml").write_text(yaml.safe_dump(config))
    return "c.yaml"


def test_particles_with_the_domain_are_told_from_others_and_how_it_lies(project, made):
    scene = made[1]
    result = search()
    table = LeopardColumns.read(result.main_output)
    assert tuple(table.columns)[:55] == (leopard.INDEX, *leopard.CONSTRAINED_COLUMNS)
    assert len(table) == len(scene.state)
    above = LeopardColumns.read(result.folder / "particles_above_threshold.csv")
    with open(result.folder / "parameters.csv", newline="") as stream:
        parameters = next(csv.DictReader(stream))
    assert int(parameters["num_correlations"]) == 77 * 3 * 49
    threshold = float(parameters["threshold"])
    z = table.numbers("refined_scaled_mip")
    np.testing.assert_array_equal(z > threshold, scene.state.numpy() < 2)
    assert above.columns["particle_index"] == [
        text for text, one in zip(table.columns["particle_index"], z, strict=True) if one > threshold
    ]
    turns = table.numbers("domain_turn_degrees")
    for state, degrees in enumerate(STATES_DEGREES):
        assert turns[scene.state == state].mean() == pytest.approx(degrees, abs=6)
    # the offset in the frame of the axis leads from the particle's pose to the domain's
    frame = array_from_euler(np.degrees(np.arctan2(AXIS[1], AXIS[0])), np.degrees(np.arccos(AXIS[2])), 0.0)
    offset = array_from_euler(*(table.numbers(f"original_offset_{name}") for name in ("phi", "theta", "psi")))
    before = array_from_euler(*(table.numbers(name) for name in ("phi", "theta", "psi")))
    after = array_from_euler(*(table.numbers(f"refined_{name}") for name in ("phi", "theta", "psi")))
    np.testing.assert_allclose(before @ frame.T @ offset @ frame, after, atol=1e-5)
    particles = relion.read_particles(result.folder / "particles.star")
    np.testing.assert_allclose(particles["rotation"], after, atol=1e-5)
    page = (result.folder / "report.html").read_text()
    for word in ("Scores before and after", "Turns about the axis", "with the domain"):
        assert word in page


def test_a_configuration_of_leopard_em_asks_for_the_same_turns(project):
    name = config_of(
        project, rotation_axis_euler_angles=[90.0, float(np.degrees(np.arccos(0.8))), 0.0], psi_min=-20.0,
        psi_max=12.0, psi_step=4.0, theta_max=4.0, theta_step=4.0,
    )  # fmt: skip
    values = dict(JOB.config.read(project, project / name))
    assert values["axis"] == pytest.approx(AXIS)
    assert (values["turn_min_degrees"], values["turn_max_degrees"]) == (-12, 20)  # the domain turns the other way
    assert values["inverted_depth"]
    assert (values["tilt_max_degrees"], values["reach_pixel"], values["centre_angstrom"]) == (4, 3, CENTRE)
    name = config_of(project, base_grid_method="uniform", theta_min=-8.0, theta_max=2.0, psi_min=-13.0, psi_max=2.0)
    values = JOB.config.read(project, project / name)
    assert (values["turn_min_degrees"], values["turn_max_degrees"]) == (-2, 13)
    assert (values["tilt_axis"], values["tilt_min_degrees"], values["tilt_max_degrees"]) == ((0, 1, 0), -2, 8)
    name = config_of(project, base_grid_method="uniform", phi_max=360.0, psi_min=0.0, psi_max=360.0, theta_max=180.0)
    values = JOB.config.read(project, project / name)
    assert (values["turn_min_degrees"], values["turn_max_degrees"], values["tilt_max_degrees"]) == (-180, 180, 180)
    name = config_of(project, base_grid_method="uniform", phi_max=360.0)
    with pytest.raises(InputError, match="must not let phi go round and keep psi"):
        JOB.config.read(project, project / name)
    name = config_of(project, enabled=False)
    result = halfmap.constrained_search(config=name, axis=AXIS, polish=False, whitening=False, workers=1)
    table = LeopardColumns.read(result.main_output)
    assert np.abs(table.numbers("domain_turn_degrees")).max() < 1e-4
    # held against the maps of the search with the domain
    np.testing.assert_allclose(
        table.numbers("refined_scaled_mip"), (table.numbers("refined_mip") - 0.5) / 1.25, atol=1e-5
    )


def test_a_configuration_is_written_that_is_read_again(project, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["constrained-search", "--write-config", str(tmp_path / "new.yaml")])
    assert ended.value.code == 0
    config = leopard_config.read(tmp_path / "new.yaml", "constrained_search")
    assert config["orientation_refinement_config"]["base_grid_method"] == "roll"


def test_mistakes_are_told_before_any_work(project):
    with pytest.raises(InputError, match="--particles must be given"):
        search(particles=None)
    with pytest.raises(InputError, match=r"--reach must be at most half .*, 8 px; got 9; give a --box of 66"):
        search(reach_pixel=9)
    mrc.write_volume(project / "small.mrc", Volume(values=density()[4:36, 4:36, 4:36], grid=ImageGrid.cubic(32, PIXEL)))
    with pytest.raises(InputError, match="--particle-template must have the side of --template, 40 px"):
        search(particle_template="small.mrc")
    columns = dict(LeopardColumns.read(project / "search.csv").columns)
    LeopardColumns(path=project, columns={**columns, "correlation_average_path": [""]}).write(project / "no.csv")
    with pytest.raises(InputError, match="must name the maps of the search in column correlation_average_path"):
        search(search="no.csv")
    mrc.write_image(project / "b.mrc", np.ones((200, 200), np.float32), ImageGrid.square(200, PIXEL))
    LeopardColumns(path=project, columns={**columns, "micrograph_path": ["b.mrc"]}).write(project / "other.csv")
    with pytest.raises(InputError, match=r"other.csv must have a row of every micrograph, .*a.mrc"):
        search(search="other.csv")
    del columns["defocus_u"]
    LeopardColumns(path=project, columns=columns).write(project / "short.csv")
    with pytest.raises(FormatError, match="defocus_u among them"):
        search(particles="short.csv")


def test_without_the_particle_s_template_that_is_said(project):
    result = search(particle_template=None, polish=False)
    assert "No --particle-template was given" in (result.folder / "report.html").read_text()
    # then all of them pass, whether they have the domain or not
    assert len(LeopardColumns.read(result.folder / "particles_above_threshold.csv")) == 25
