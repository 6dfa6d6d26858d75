import numpy as np
import pytest
import torch

import halfmap
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.io.relion_picks import read_autopick
from halfmap.jobs.pick_template import PickTemplateJobParams, read_templates
from halfmap.picking.agreement import agreement
from support.blob_micrographs import PIXEL_SIZE
from support.rod_micrographs import LENGTH, rod_micrograph, rod_reference

SHAPE = (260, 300)


@pytest.fixture(scope="module")
def scenes():
    return {f"Micrographs/mic{i}.mrc": rod_micrograph(SHAPE, 18, contrast=1.0, seed=i) for i in (1, 2)}


@pytest.fixture
def project(tmp_path, monkeypatch, scenes):
    root = tmp_path / "project"
    (root / ".halfmap").mkdir(parents=True)
    monkeypatch.chdir(root)
    for name, scene in scenes.items():
        mrc.write_image(root / name, scene.image, ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_SIZE))
    rows = "\n".join(f"{name} 1" for name in scenes)
    (root / "micrographs.star").write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnMicrographPixelSize\n_rlnVoltage\n"
        f"_rlnSphericalAberration\n_rlnAmplitudeContrast\n1 one {PIXEL_SIZE} 300 2.7 0.1\n\n"
        f"data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n{rows}\n"
    )
    with mrc.StackWriter(root / "classes.mrcs", ImageGrid.square(64, PIXEL_SIZE), 1) as writer:
        writer.write(torch.from_numpy(rod_reference())[None])
    return root


def pick(project, **options):
    given = {
        "micrographs": project / "micrographs.star",
        "references": project / "classes.mrcs",
        "diameter_angstrom": LENGTH,
        "psi_step_degrees": 15.0,
        "ctf": False,
        "workers": 1,
        **options,
    }
    return halfmap.pick_template(**given)


def test_picks_have_class_psi_and_figure_of_merit(project, scenes):
    picks = read_autopick(pick(project).main_output, project)
    for name, scene in scenes.items():
        here = picks.in_micrograph(name)
        assert agreement(here.position_pixel, scene.positions, distance=10).f1 > 0.9
        assert set(here["class_number"]) == {1}
        assert len(np.unique(here["psi_degrees"])) > 5
        assert (here.figure_of_merit > 0).all()


def test_a_map_is_projected_in_the_directions_of_its_asymmetric_unit(project):
    grid = ImageGrid.cubic(48, PIXEL_SIZE)
    x, y, z = grid.positions().unbind(-1)
    ball = ((x / 80) ** 2 + (y / 40) ** 2 + (z / 40) ** 2 < 1).float()
    mrc.write_volume(project / "map.mrc", Volume(values=ball, grid=grid))
    counts = {}
    for symmetry in ("C1", "D2"):
        params = PickTemplateJobParams(
            micrographs=project / "micrographs.star",
            references=project / "map.mrc",
            diameter_angstrom=LENGTH,
            symmetry=symmetry,
        )
        templates = read_templates(params)
        counts[symmetry] = len(templates.images)
        assert templates.grid.pixel_size_angstrom == 10.0
        sums = templates.images.sum(dim=(1, 2))
        torch.testing.assert_close(sums, torch.full_like(sums, float(sums[0])), rtol=1e-3, atol=0)
    assert counts["C1"] == 48  # HEALPix order 1, 30° apart
    assert 12 <= counts["D2"] < 24


def test_a_table_without_ctf_is_refused_unless_it_is_not_wanted(project):
    with pytest.raises(InconsistentDataError, match=r"_rlnDefocusU.*--no-ctf"):
        pick(project, ctf=True)


def test_references_smaller_than_the_particle_are_refused(project):
    with pytest.raises(InputError, match=r"at least --diameter wide, 400 Å; got 320 Å"):
        pick(project, diameter_angstrom=400.0)


def test_references_without_a_pixel_size_are_refused(project):
    path = project / "classes.mrcs"
    content = bytearray(path.read_bytes())
    content[40:52] = bytes(12)  # the cell
    path.write_bytes(content)
    with pytest.raises(InputError, match="--reference-pixel-size"):
        pick(project)
    assert pick(project, reference_pixel_size_angstrom=PIXEL_SIZE).main_output.exists()
