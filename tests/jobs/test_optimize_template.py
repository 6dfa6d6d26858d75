"""``halfmap optimize-template``: a wrong pixel size and B-factor are found, with a model and with a map."""

import csv
import json

import numpy as np
import pytest
import yaml

import halfmap
from halfmap import keyed_random
from halfmap.cli.main import main
from halfmap.errors import FormatError, InputError
from halfmap.geometry.euler import euler_from_array
from halfmap.grid import ImageGrid
from halfmap.io import leopard, leopard_config, mrc
from halfmap.io.leopard import LeopardColumns
from halfmap.jobs import optimize_template_run
from halfmap.jobs.model_templates import ModelTemplateParams, read_model, template_of_model
from halfmap.template_matching.template import prepare_template
from support import template_particles
from support.template_particles import BOX, PIXEL, SIDE

N = 16
TRUE_PIXEL, TRUE_B_FACTOR = 0.98 * PIXEL, 60.0
COARSE = {"pixel_size_min_angstrom": -0.12, "pixel_size_max_angstrom": 0.12, "pixel_size_step_angstrom": 0.06}
FINE = {
    "pixel_size_fine_min_angstrom": -0.02, "pixel_size_fine_max_angstrom": 0.02, "pixel_size_fine_step_angstrom": 0.01
}  # fmt: skip
B_FACTORS = {"b_factor_min_angstrom2": 0.0, "b_factor_max_angstrom2": 150.0, "b_factor_step_angstrom2": 30.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a micrograph of a model, whose pixels are 2 % smaller than it is said, and its table."""
    root = tmp_path_factory.mktemp("project")
    (root / ".halfmap").mkdir()
    places = np.tanh(keyed_random.normal(3, "atoms", np.arange(400), size=3)) * 40
    (root / "model.pdb").write_text(
        "".join(
            f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 30.00           C\n"
            for i, (x, y, z) in enumerate(places.tolist())
        )
        + "END\n"
    )
    params = ModelTemplateParams()
    model = read_model(root / "model.pdb", params)
    mrc.write_volume(root / "template.mrc", template_of_model(model, SIDE, PIXEL, params))
    seen = template_of_model(model, SIDE, TRUE_PIXEL, params).values
    true = prepare_template(seen, ImageGrid.cubic(SIDE, PIXEL), padding=4)
    box_model = template_particles.model().with_template(true).with_b_factor(TRUE_B_FACTOR)
    image, candidates, rotations, position = template_particles.micrograph(box_model)
    grid = ImageGrid(shape=tuple(image.shape), pixel_size_angstrom=PIXEL)
    mrc.write_image(root / "a.mrc", image.numpy(), grid)
    maps = grid.with_shape(tuple(side - SIDE + 1 for side in grid.shape))
    for name, value in (("mean.mrc", 0.5), ("deviation.mrc", 1.25)):
        mrc.write_image(root / name, np.full(maps.shape, value, np.float32), maps)
    numbers = dict(zip(("phi", "theta", "psi"), euler_from_array(rotations.numpy()).T, strict=True))
    numbers |= {f"pos_{axis}_img": np.round(position.numpy()[:, i]) for i, axis in enumerate("xy")}
    numbers |= {name: getattr(candidates.optics, f"{name}_angstrom").numpy() for name in ("defocus_u", "defocus_v")}
    same = {"astigmatism_angle": "30", "pixel_size": "3.0", "refined_pixel_size": "3.0", "voltage": "300",
            "spherical_aberration": "2.7", "amplitude_contrast_ratio": "0.07", "phase_shift": "90",
            "micrograph_path": "a.mrc", "template_path": "template.mrc", "correlation_average_path": "mean.mrc",
            "correlation_variance_path": "deviation.mrc"}  # fmt: skip
    columns = {name: [same.get(name, "0")] * N for name in leopard.MATCH_COLUMNS}
    columns |= {name: [repr(float(value)) for value in values] for name, values in numbers.items()}
    columns |= {name: [""] * N for name in ("even_zernikes", "odd_zernikes", "mag_matrix")}
    LeopardColumns(path=root, columns=columns).write(root / "match.csv")
    return root


@pytest.fixture
def project(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def optimise(template, **values):
    return halfmap.optimize_template(
        **{"particles": "match.csv", "template": template, "box_pixel": BOX, "workers": 1, **COARSE, **FINE,
           **B_FACTORS, **values}
    )  # fmt: skip


@pytest.mark.parametrize("template", ["model.pdb", "template.mrc"])
def test_a_wrong_pixel_size_and_b_factor_are_found(project, template):
    result = optimise(template)
    best = mrc.read_volume(result.main_output)
    assert best.grid.side == SIDE
    # a tenth of the error of 2 %
    assert abs(best.grid.pixel_size_angstrom / TRUE_PIXEL - 1) < 0.002
    table = LeopardColumns.read(result.folder / "particles.csv")
    np.testing.assert_allclose(table.numbers("refined_pixel_size"), best.grid.pixel_size_angstrom, atol=1e-4)
    with open(result.folder / "scores.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    factors = {float(row["b_factor_angstrom2"]): float(row["mean_z"]) for row in rows if row["walk"] == "B-factor"}
    assert max(factors, key=factors.get) == TRUE_B_FACTOR
    assert {row["particles"] for row in rows} == {str(N)}
    page = (result.folder / "report.html").read_text()
    for word in ("Pixel size", "B-factor added", "fine pixel size"):
        assert word in page
    assert not (result.folder / "state").exists()


KEPT = {
    name: 0.0
    for quantity in ("pixel_size", "pixel_size_fine", "b_factor")
    for name in (f"{quantity}_min_angstrom{'2' * (quantity == 'b_factor')}",
                 f"{quantity}_max_angstrom{'2' * (quantity == 'b_factor')}")
}  # fmt: skip


def test_a_configuration_of_leopard_em_is_taken_and_the_end_of_a_range_is_told(project, capsys):
    config = yaml.safe_load(leopard_config.default_text("optimize_template"))
    config["particle_stack"] = {
        "df_path": "match.csv", "extracted_box_size": [BOX, BOX], "original_template_size": [SIDE, SIDE]
    }  # fmt: skip
    config["simulator"] |= {"pdb_filepath": "model.pdb", "additional_b_factor": 5.0}
    config["pixel_size_coarse_search"] |= {"pixel_size_min": 0.0, "pixel_size_max": 0.03, "pixel_size_step": 0.03}
    config["pixel_size_fine_search"]["enabled"] = False
    (project / "c.yaml").write_text(yaml.safe_dump(config))
    flags = ["--b-factor-min", "0", "--b-factor-max", "0", "--workers", "1", "--out", "configured"]
    with pytest.raises(SystemExit) as exit_:
        main(["optimize-template", "c.yaml", *flags])
    assert exit_.value.code == 0
    said = capsys.readouterr()
    assert said.out.strip().endswith("configured/template.mrc")
    assert "The best pixel size is at the end of those tried, 3 Å" in (project / "configured/run.log").read_text()
    given = json.loads((project / "configured/job.json").read_text())["parameters"]
    assert (given["b_factor_angstrom2"], given["dose_end"], given["template_box_pixel"]) == (5.0, 30.0, SIDE)
    assert (given["pixel_size_max_angstrom"], given["pixel_size_fine_max_angstrom"]) == (0.03, 0.0)


def test_particles_are_chosen_by_score_or_number_and_none_is_told(project):
    result = optimise("template.mrc", **KEPT, best_particles=5, statistics="none")
    with open(result.folder / "scores.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["particles"] for row in rows] == ["5", "5"]
    # a score without the statistics of a search is held against white noise
    assert rows[0]["mean_z"] == rows[0]["mean_mip"]
    with pytest.raises(InputError, match="Some particles must have a z of 99 or more"):
        optimise("template.mrc", **KEPT, min_z=99)
    with pytest.raises(InputError, match="--pixel-size-fine-max must be at least --pixel-size-fine-min"):
        optimise("template.mrc", pixel_size_fine_max_angstrom=-1)
    with pytest.raises(InputError, match="--pixel-size-min and --pixel-size-fine-min together must be above −3 Å"):
        optimise("template.mrc", pixel_size_min_angstrom=-2.0, pixel_size_fine_min_angstrom=-1.0)
    with pytest.raises(InputError, match="--box must be even and larger than the template, 60 px"):
        optimise("model.pdb", template_box_pixel=60)
    with pytest.raises(FormatError, match="expected a map of 315×355 px"):
        optimise("model.pdb", template_box_pixel=46)


def test_a_job_that_was_killed_goes_on_with_the_same_result(project, monkeypatch):
    values = {**KEPT, **B_FACTORS, "pixel_size_max_angstrom": 0.03, "pixel_size_step_angstrom": 0.03}
    whole = optimise("template.mrc", **values, out="whole")
    real, changes = optimize_template_run.score_templates, []

    def dies(*args, **kwargs):
        changes.append(len(kwargs["changes"]))
        if len(changes) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(optimize_template_run, "score_templates", dies)
    with pytest.raises(KeyboardInterrupt):
        optimise("template.mrc", **values, out="killed")
    with pytest.raises(SystemExit) as ended:
        main(["optimize-template", "--continue", "killed", "--workers", "1"])
    assert ended.value.code == 0
    # two pixel sizes, six B-factors that were broken off, and those again
    assert changes == [2, 6, 6]
    assert (project / "killed" / "scores.csv").read_text() == (whole.folder / "scores.csv").read_text()
