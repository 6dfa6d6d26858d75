from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.data.atomic_models import AtomicModel
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.io.atoms import read_atoms
from halfmap.simulation.potential import (
    ICE_MOLECULES_PER_ANGSTROM3,
    VOLT_ANGSTROM2,
    electron_scattering_factor_angstrom,
    ice_potential_volt,
    potential_of_atoms,
)
from support.shared_data import shared_data

GRIDS = [
    ImageGrid.cubic(24, 1.3),
    ImageGrid.cubic(25, 1.3),
    ImageGrid(shape=(22, 27, 24), pixel_size_angstrom=1.1),
]


def some_atoms(n=40, reach=9.0, seed=2):
    rng = np.random.default_rng(seed)
    elements = np.array(["C", "N", "O", "S"])[rng.integers(0, 4, n)]
    return AtomicModel.of_protein(elements, rng.uniform(-reach, reach, (n, 3)))


def direct_sum(model, grid, b_factor):
    """The definition, atom by atom: Σ f(s) exp(−2πi s·r), solvent subtracted, in volts."""
    s_vectors = grid.frequencies()
    s = s_vectors.norm(dim=-1)
    total = torch.zeros(grid.rfft_shape, dtype=torch.complex128)
    ice = ICE_MOLECULES_PER_ANGSTROM3 * float(
        electron_scattering_factor_angstrom("O", torch.zeros(1, dtype=torch.float64))
        + 2 * electron_scattering_factor_angstrom("H", torch.zeros(1, dtype=torch.float64))
    )
    for i in range(len(model)):
        factor = electron_scattering_factor_angstrom(str(model.elements[i]), s)
        riding = torch.exp(-((2 * np.pi * s) ** 2) / 6) * electron_scattering_factor_angstrom("H", s)
        v = model.volumes_angstrom3[i]
        factor = factor + model.hydrogens[i] * riding - ice * v * torch.exp(-np.pi * v ** (2 / 3) * s**2)
        phase = -2 * np.pi * (s_vectors @ torch.from_numpy(model.positions_angstrom[i]))
        total += factor * torch.exp(-b_factor * s**2 / 4) * torch.polar(torch.ones_like(phase), phase)
    total[s >= 0.5 / grid.pixel_size_angstrom] = 0
    return grid.irfft(total * VOLT_ANGSTROM2 / (grid.n_pixels * grid.pixel_size_angstrom**3))


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid.shape))
def test_potential_equals_the_fourier_sum_over_atoms(grid):
    model = some_atoms()
    expected = direct_sum(model, grid, 20.0)
    values = potential_of_atoms(model, grid, b_factor_angstrom2=20.0).values
    # 1e-3 of the peak: the spreading kernel's own error is near 1e-4
    assert (values - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("side", [24, 25])
@pytest.mark.parametrize("position", [(0.0, 0.0, 0.0), (3.37, -4.81, 5.23)])
def test_an_atom_peaks_where_it_lies_to_a_hundredth_of_a_voxel(side, position):
    grid = ImageGrid.cubic(side, 1.2)
    model = AtomicModel.of_protein(np.array(["C"]), np.array([position]))
    values = potential_of_atoms(model, grid, b_factor_angstrom2=60.0, solvent=False).values.double()
    weights = torch.where(grid.positions().sub(torch.tensor(position)).norm(dim=-1) < 3.5, values, 0.0)
    found = (weights[..., None] * grid.positions()).sum(dim=(0, 1, 2)) / weights.sum()
    # a ball of voxels around a point between voxels is lopsided at its edge, where the potential is small
    np.testing.assert_allclose(found, position, atol=0.05)
    nearest = torch.argmin(grid.positions().sub(torch.tensor(position)).norm(dim=-1))
    assert torch.argmax(values) == nearest


def test_potential_integrates_to_the_forward_scattering_of_its_atoms():
    model = AtomicModel.of_protein(np.array(["O"]), np.zeros((1, 3)))
    grid = ImageGrid.cubic(20, 1.5)
    integral = potential_of_atoms(model, grid, solvent=False).values.double().sum() * 1.5**3
    # f(0) of neutral oxygen: 1.983 Å, International Tables C 4.3.2.2
    assert integral == pytest.approx(47.878 * 1.983, rel=1e-3)


def test_ice_has_the_measured_mean_inner_potential():
    # 4.5 V is the value for isolated molecules at 0.93 g/cm³ used throughout the field
    assert ice_potential_volt() == pytest.approx(4.5, abs=0.1)


def test_potential_grows_with_the_number_of_copies():
    model = some_atoms()
    grid = ImageGrid.cubic(24, 1.3)
    twice = model.repeated(np.stack([np.eye(3), np.diag([-1.0, -1.0, 1.0])]))
    turned = potential_of_atoms(model.rotated(np.diag([-1.0, -1.0, 1.0])), grid).values
    torch.testing.assert_close(
        potential_of_atoms(twice, grid).values, potential_of_atoms(model, grid).values + turned, atol=2e-2, rtol=0
    )


def test_protein_stands_out_from_ice_by_three_to_four_volts():
    model = read_atoms(shared_data("models/apoferritin_24mer_centred.pdb"))
    grid = ImageGrid.cubic(64, 3.0)
    contrast = potential_of_atoms(model, grid).values.double().sum() * 3.0**3
    mean = float(contrast) / float(model.volumes_angstrom3 @ model.occupancies)
    assert 3.0 < mean < 4.0
    vacuum = potential_of_atoms(model, grid, solvent=False).values.double().sum() * 3.0**3
    assert float(vacuum - contrast) / model.volumes_angstrom3.sum() == pytest.approx(ice_potential_volt(), rel=1e-3)


def test_real_models_are_read_with_plausible_mass():
    model = read_atoms(shared_data("models/GroEL_1oel.pdb"))
    # seven chains of 524 residues of 57 kDa, less the disordered ends
    assert model.mass_dalton == pytest.approx(7 * 55e3, rel=0.05)


def test_model_outside_the_box_is_refused_with_the_size_needed():
    with pytest.raises(InputError, match=r"at least \d+ px"):
        potential_of_atoms(some_atoms(reach=40.0), ImageGrid.cubic(24, 1.3))


def test_own_b_factors_damp_each_atom_as_a_shared_one_would():
    grid = ImageGrid.cubic(32, 1.5)
    rows = np.array([[4.0, 1.0, -3.0], [-6.0, 2.0, 5.0], [0.0, -7.0, 1.0]])
    atoms = [AtomicModel.of_protein(np.array(["C"]), row[None]) for row in rows]
    b_factors = (33.0, 71.0, 47.0)
    both = AtomicModel.of_protein(np.array(["C"] * 3), rows)
    both = replace(both, b_factors_angstrom2=np.array(b_factors))
    together = potential_of_atoms(both, grid, b_factor_angstrom2=10.0, b_factor_scaling=1.0)
    alone = [
        potential_of_atoms(one, grid, b_factor_angstrom2=10.0 + b) for one, b in zip(atoms, b_factors, strict=True)
    ]
    expected = sum(one.values for one in alone)
    # the last atom's lies between two values that are shared
    assert torch.allclose(together.values, expected, atol=2e-3 * float(expected.max()))
