"""Atomic models from PDB and mmCIF files."""

from collections.abc import Sequence
from pathlib import Path

import gemmi
import numpy as np

from halfmap.data.atomic_models import (
    HYDROGENS_PER_ATOM,
    MASS_DALTON,
    NUCLEIC_ACID_VOLUME_ANGSTROM3_PER_DALTON,
    PROTEIN_VOLUME_ANGSTROM3_PER_DALTON,
    AtomicModel,
)
from halfmap.errors import FormatError, InputError


def read_atoms(
    path: str | Path,
    *,
    assembly: str | None = None,
    chains: Sequence[str] = (),
    without_chains: Sequence[str] = (),
) -> AtomicModel:
    """Read the first model of a PDB or mmCIF file.

    Parameters
    ----------
    path : ``.pdb``, ``.ent``, ``.cif`` or ``.mmcif``, also with ``.gz``.
    assembly : name of a biological assembly that the file defines, as ``1``; None for the atoms as they stand.
    chains : names of those that are read; all of them where empty.
    without_chains : names of those that are left out.

    Returns
    -------
    AtomicModel
        In the file's order and frame, without water, without hydrogens of its own (each carbon and
        nitrogen carries its mean number), and with the first of alternative conformers.

    Raises
    ------
    InputError
        There is no such file, no assembly or chain of that name, or no chain is left.
    FormatError
        The file cannot be read as a model, holds no atom, or one whose place or occupancy is no number.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"A model must be a PDB or mmCIF file; got {path}, which does not exist; correct the path.")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError, IndexError) as error:
        raise FormatError(path, expected="a PDB or mmCIF model", found=str(error)) from error
    structure.remove_alternative_conformations()
    structure.remove_hydrogens()
    structure.remove_waters()
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise FormatError(path, expected="a model with atoms", found="none", remedy="check the file's format")
    if assembly is not None:
        known = [a.name for a in structure.assemblies]
        if assembly not in known:
            raise InputError(
                f"An assembly of {path} must be one of {', '.join(known) or '(none defined)'}; got {assembly!r}; "
                "choose one or leave it out."
            )
        structure.transform_to_assembly(assembly, gemmi.HowToNameCopiedChain.AddNumber)
    _keep_chains(path, structure[0], chains, without_chains)
    model = _model(structure[0])
    wrong = np.flatnonzero(~(np.isfinite(model.positions_angstrom).all(axis=-1) & np.isfinite(model.occupancies)))
    if len(wrong):
        raise FormatError(
            path,
            expected="finite coordinates and occupancies",
            found=f"{len(wrong)} atoms without, the first {model.names[wrong[0]]}, number {wrong[0] + 1}",
            remedy="mend or remove them",
        )
    return model


def _keep_chains(path: Path, model: gemmi.Model, chains: Sequence[str], without_chains: Sequence[str]) -> None:
    """Remove the chains that are not wanted."""
    known = list(dict.fromkeys(chain.name for chain in model))
    for name in (*chains, *without_chains):
        if name not in known:
            raise InputError(f"A chain of {path} must be one of {', '.join(known)}; got {name!r}; choose among them.")
    left = [name for name in known if (not chains or name in chains) and name not in without_chains]
    if not left:
        raise InputError(f"Some chain of {path} must be left; got none of {', '.join(known)}; leave out fewer.")
    for name in known:
        if name not in left:
            model.remove_chain(name)


def _model(model: gemmi.Model) -> AtomicModel:
    elements, names, positions, occupancies, numbers, nucleic, masses, moving = [], [], [], [], [], [], [], []
    number = 0
    for chain in model:
        number += 1
        for residue in chain:
            number += 1
            is_nucleic = gemmi.find_tabulated_residue(residue.name).is_nucleic_acid()
            for atom in residue:
                symbol = atom.element.name
                elements.append(symbol)
                names.append(atom.name)
                positions.append(atom.pos.tolist())
                occupancies.append(atom.occ)
                moving.append(max(0.0, atom.b_iso))
                numbers.append(number)
                nucleic.append(is_nucleic)
                masses.append(MASS_DALTON.get(symbol, atom.element.weight))
    hydrogens = np.array([HYDROGENS_PER_ATOM.get(symbol, 0.0) for symbol in elements])
    mass = np.array(masses) + hydrogens * MASS_DALTON["H"]
    volume = np.where(nucleic, NUCLEIC_ACID_VOLUME_ANGSTROM3_PER_DALTON, PROTEIN_VOLUME_ANGSTROM3_PER_DALTON)
    return AtomicModel(
        elements=np.array(elements, dtype="U2"),
        positions_angstrom=np.array(positions, dtype=np.float64),
        occupancies=np.array(occupancies, dtype=np.float64),
        hydrogens=hydrogens,
        masses_dalton=mass,
        volumes_angstrom3=mass * volume,
        b_factors_angstrom2=np.array(moving, dtype=np.float64),
        names=np.array(names, dtype="U4"),
        residue_numbers=np.array(numbers, dtype=np.int64),
    )
