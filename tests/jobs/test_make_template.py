"""``halfmap make-template``: a model's potential in the box of a search, faded as asked."""

import math

import numpy as np
import pytest

import halfmap
from halfmap.errors import InputError
from halfmap.fourier.shells import shell_index
from halfmap.io import mrc

ATOM = "ATOM  {number:5d}  {name:3s} ALA A{residue:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00{b:6.2f}           {element}\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = tmp_path / "project"
    (root / ".halfmap").mkdir(parents=True)
    monkeypatch.chdir(root)
    atoms = [("CA", 9.0, 1.0, 2.0, 40.0, "C"), ("N", -3.0, 2.0, 1.0, 80.0, "N"), ("O", 0.0, -4.0, -3.0, 20.0, "O")]
    (root / "model.pdb").write_text(
        "".join(
            ATOM.format(number=i + 1, name=name, residue=i + 1, x=x, y=y, z=z, b=b, element=element)
            for i, (name, x, y, z, b, element) in enumerate(atoms)
        )
        + "END\n"
    )
    return root


def made(**more):
    job = halfmap.make_template(model="model.pdb", pixel_size_angstrom=1.5, workers=1, **more)
    return mrc.read_volume(job.main_output)


def by_shell(volume):
    """Return the amplitude at a few frequencies in 1/Å."""
    grid = volume.grid
    amplitude = grid.rfft(volume.values).abs().flatten()
    shells = shell_index(grid).flatten()
    field = grid.side * grid.pixel_size_angstrom
    return {k / field: float(amplitude[shells == k].double().square().mean().sqrt()) for k in (6, 10, 14)}


def test_the_box_holds_the_model_and_the_header_says_how_large_it_is(project):
    volume = made(box_pixel=40)
    assert (volume.grid.side, volume.grid.pixel_size_angstrom) == (40, 1.5)
    header = mrc.read_header(project / "MakeTemplate/job001/template.mrc")
    assert header.voxel_size_angstrom == pytest.approx((1.5, 1.5, 1.5))
    assert made().grid.side % 2 == 0
    with pytest.raises(InputError, match="must hold the whole model"):
        made(box_pixel=8, centre=False)


def test_b_factors_and_exposure_damp_by_their_formulas(project):
    plain = by_shell(made(box_pixel=40, b_factor_scaling=0.0))
    sharper = by_shell(made(box_pixel=40, b_factor_scaling=0.0, b_factor_angstrom2=60.0))
    under = by_shell(made(box_pixel=40, b_factor_scaling=0.0, envelope_b_factor_angstrom2=60.0))
    dosed = by_shell(made(box_pixel=40, b_factor_scaling=0.0, dose_start=10.0, dose_end=30.0))
    for s, amplitude in plain.items():
        # shells are a fifth of a shell wide at most about their middle
        assert sharper[s] / amplitude == pytest.approx(math.exp(-15.0 * s**2), rel=0.03)
        assert under[s] == pytest.approx(sharper[s], rel=1e-4)
        critical = 0.24499 * s**-1.6649 + 2.8141
        exposures = np.linspace(10.0, 30.0, 2001)
        assert dosed[s] / amplitude == pytest.approx(np.exp(-exposures / (2 * critical)).mean(), rel=0.03)


def test_each_atom_moves_by_its_own_b_factor(project):
    own, scaled = (
        by_shell(made(box_pixel=40)),
        by_shell(made(box_pixel=40, b_factor_scaling=0.0, b_factor_angstrom2=47.0)),
    )
    # of 20, 40 and 80 Å²: less than the mean would at high, as the stiffest atoms outlast the others
    high = max(own)
    assert scaled[high] < own[high] < by_shell(made(box_pixel=40, b_factor_scaling=0.0))[high]


def test_the_mirror_image_is_the_map_upside_down(project):
    volume, mirrored = made(box_pixel=40), made(box_pixel=40, mirror=True)
    # z of the middle voxel stays; the first plane has no partner
    assert np.allclose(mirrored.values[1:].flip(0), volume.values[1:], atol=1e-3 * float(volume.values.max()))


def test_a_dose_that_ends_before_it_begins_is_told(project):
    with pytest.raises(InputError, match="--dose-end must be at least --dose-start"):
        made(dose_start=20.0, dose_end=10.0)


def test_a_domain_stays_where_it_is_in_the_whole_model(project):
    text = (project / "model.pdb").read_text()
    lines = text.splitlines(keepends=True)
    (project / "model.pdb").write_text(lines[0].replace("ALA A", "ALA B") + "".join(lines[1:]))
    whole, domain, rest = (
        made(box_pixel=40),
        made(box_pixel=40, chains=("B",)),
        made(box_pixel=40, without_chains=("B",)),
    )
    assert np.abs((domain.values + rest.values - whole.values).numpy()).max() < 1e-4 * float(whole.values.max())
    assert "The centre of these chains lies at" in (project / "MakeTemplate/job002/run.log").read_text()
    with pytest.raises(InputError, match="must be one of B, A; got 'C'"):
        made(chains=("C",))
    with pytest.raises(InputError, match="must be left; got none of B, A"):
        made(without_chains=("A", "B"))
