import gzip

import numpy as np
import pytest

from halfmap.errors import FormatError, InputError
from halfmap.io.atoms import read_atoms

PDB = """\
REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000
CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1
ATOM      1  N   ALA A   1       1.000   2.000   3.000  1.00 20.00           N
ATOM      2  CA AALA A   1       2.000   2.000   3.000  0.60 20.00           C
ATOM      3  CA BALA A   1       2.200   2.000   3.000  0.40 20.00           C
ATOM      4  H   ALA A   1       1.500   2.000   3.000  1.00 20.00           H
ATOM      5  P     G A   2       4.000   2.000  -3.000  1.00 20.00           P
HETATM    6  O   HOH A   3       9.000   9.000   9.000  1.00 20.00           O
END
"""


def write(path, text=PDB):
    path.write_text(text)
    return path


def test_atoms_keep_their_places_and_lose_water_hydrogens_and_second_conformers(tmp_path):
    model = read_atoms(write(tmp_path / "a.pdb"))
    assert model.elements.tolist() == ["N", "C", "P"]
    np.testing.assert_allclose(model.positions_angstrom, [[1, 2, 3], [2, 2, 3], [4, 2, -3]])
    assert model.names.tolist() == ["N", "CA", "P"]


def test_nucleic_acid_displaces_less_ice_than_protein_of_its_mass(tmp_path):
    model = read_atoms(write(tmp_path / "a.pdb"))
    per_dalton = model.volumes_angstrom3 / model.masses_dalton
    assert per_dalton[2] < 0.8 * per_dalton[1]


def test_an_assembly_is_built_from_the_files_operators(tmp_path):
    model = read_atoms(write(tmp_path / "a.pdb"), assembly="1")
    assert len(model) == 6
    np.testing.assert_allclose(model.positions_angstrom[3], [-1, -2, 3])


def test_unknown_assembly_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="must be one of 1; got '7'"):
        read_atoms(write(tmp_path / "a.pdb"), assembly="7")


def test_compressed_models_are_read(tmp_path):
    path = tmp_path / "a.pdb.gz"
    with gzip.open(path, "wt") as stream:
        stream.write(PDB)
    assert len(read_atoms(path)) == 3


def test_an_atom_at_no_place_is_refused(tmp_path):
    path = tmp_path / "m.pdb"
    write(path, PDB.replace("       1.000   2.000   3.000  1.00", "         nan   2.000   3.000  1.00"))
    with pytest.raises(FormatError, match="finite coordinates and occupancies; found 1 atoms without, the first N"):
        read_atoms(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_atoms(tmp_path / "none.cif")


@pytest.mark.parametrize("text", ["", "not a model\n"])
def test_file_without_atoms_is_refused(tmp_path, text):
    with pytest.raises(FormatError):
        read_atoms(write(tmp_path / "a.cif", text))
