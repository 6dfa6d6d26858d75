import numpy as np
import pytest

from halfmap.simulation import peptides

ENGH_HUBER = {("N", "CA"): 1.458, ("CA", "C"): 1.525, ("C", "O"): 1.231, ("CA", "CB"): 1.530}
COLUMN = {name: i for i, name in enumerate(peptides.BACKBONE_NAMES)}


def torsion_degrees(a, b, c, d):
    first, axis, last = b - a, c - b, d - c
    n1, n2 = np.cross(first, axis), np.cross(axis, last)
    y = np.sum(np.cross(n1, n2) * axis / np.linalg.norm(axis, axis=-1, keepdims=True), axis=-1)
    return np.degrees(np.arctan2(y, np.sum(n1 * n2, axis=-1)))


@pytest.mark.parametrize("build", [peptides.helix, peptides.strand])
def test_bonds_have_the_lengths_of_engh_and_huber(build):
    atoms = build(12)
    for (first, second), length in ENGH_HUBER.items():
        bonds = np.linalg.norm(atoms[:, COLUMN[first]] - atoms[:, COLUMN[second]], axis=1)
        np.testing.assert_allclose(bonds, length, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(atoms[1:, 0] - atoms[:-1, 2], axis=1), 1.329, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "torsions"),
    [(peptides.helix, peptides.HELIX_TORSIONS_DEGREES), (peptides.strand, peptides.STRAND_TORSIONS_DEGREES)],
)
def test_torsions_are_those_of_the_secondary_structure(build, torsions):
    n, ca, c = build(10)[:, :3].transpose(1, 0, 2)
    np.testing.assert_allclose(torsion_degrees(c[:-1], n[1:], ca[1:], c[1:]), torsions[0], atol=1e-6)
    np.testing.assert_allclose(torsion_degrees(n[:-1], ca[:-1], c[:-1], n[1:]), torsions[1], atol=1e-6)


def test_residues_are_l_amino_acids():
    n, ca, c, _, cb = peptides.helix(8).transpose(1, 0, 2)
    # the triple product of real L residues is +2.4 to +2.6 Å³
    assert (np.sum(np.cross(n - ca, c - ca) * (cb - ca), axis=1) > 2.4).all()


def test_helix_is_right_handed_with_3_6_residues_a_turn_along_z():
    ca = peptides.helix(30)[:, 1]
    turn = np.degrees(np.diff(np.unwrap(np.arctan2(ca[:, 1], ca[:, 0]))))
    assert 360 / turn.mean() == pytest.approx(3.6, abs=0.05)
    assert np.diff(ca[:, 2]).mean() == pytest.approx(peptides.HELIX_RISE_ANGSTROM, abs=0.02)
    np.testing.assert_allclose(np.hypot(ca[:, 0], ca[:, 1]), 2.3, atol=0.02)


def test_strand_is_flat_and_its_side_chains_alternate_along_x():
    atoms = peptides.strand(12)
    side = atoms[:, 4] - atoms[:, 1]
    assert (side[::2, 0] > 1.0).all()
    assert (side[1::2, 0] < -1.0).all()
    carbonyl = atoms[:, 3] - atoms[:, 2]
    assert (np.abs(carbonyl[:, 1]) > 0.8).all()
    assert np.diff(atoms[:, 1, 2]).mean() == pytest.approx(peptides.STRAND_RISE_ANGSTROM, abs=0.02)
