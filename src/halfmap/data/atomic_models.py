"""`AtomicModel`: atoms as the density of a specimen is made from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import ShapeError

MASS_DALTON = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "P": 30.974, "S": 32.06}
"""Masses of the elements of life; any other element's is in the model that names it."""

HYDROGENS_PER_ATOM = {"C": 1.3, "N": 1.0}
"""Mean number of hydrogens bound to an atom of proteins and nucleic acids; other elements carry none.

Proteins hold 4.9 C, 1.35 N and 7.8 H in a mean residue.
"""

PROTEIN_VOLUME_ANGSTROM3_PER_DALTON = 1.230
"""1 / (1.35 g/cm³), the density of folded protein."""

NUCLEIC_ACID_VOLUME_ANGSTROM3_PER_DALTON = 0.913
"""1 / (1.82 g/cm³), the partial specific volume 0.55 cm³/g of nucleic acids."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AtomicModel:
    """Heavy atoms with the hydrogens that ride on them.

    Parameters
    ----------
    elements : shape (n,), text
        Chemical symbols as ``C`` or ``Fe``.
    positions_angstrom : float64, shape (n, 3)
        Components (x, y, z).
    occupancies : float64, shape (n,)
    hydrogens : float64, shape (n,)
        Mean number of hydrogens bound to each atom.
    masses_dalton : float64, shape (n,)
        Mass of each atom with its hydrogens.
    volumes_angstrom3 : float64, shape (n,)
        Volume of solvent that each atom with its hydrogens displaces.
    b_factors_angstrom2 : float64, shape (n,)
        How far each atom moves about its position, as a damping exp(−B s²/4).
    names : shape (n,), text
        Names of the atoms within their residues, as ``CA``.
    residue_numbers : int64, shape (n,)
        Atoms of one residue share a number; residues that follow one another in a chain have
        consecutive ones.

    Raises
    ------
    ShapeError
        The columns differ in length.
    """

    elements: NDArray[np.str_]
    positions_angstrom: NDArray[np.float64]
    occupancies: NDArray[np.float64]
    hydrogens: NDArray[np.float64]
    masses_dalton: NDArray[np.float64]
    volumes_angstrom3: NDArray[np.float64]
    b_factors_angstrom2: NDArray[np.float64]
    names: NDArray[np.str_]
    residue_numbers: NDArray[np.int64]

    def __post_init__(self) -> None:
        n = len(self.elements)
        if self.positions_angstrom.shape != (n, 3):
            raise ShapeError(f"Positions of {n} atoms must have shape ({n}, 3); got {self.positions_angstrom.shape}.")
        for name in self.__dataclass_fields__:
            if name in ("elements", "positions_angstrom"):
                continue
            if getattr(self, name).shape != (n,):
                raise ShapeError(f"{name} of {n} atoms must have shape ({n},); got {getattr(self, name).shape}.")

    def __len__(self) -> int:
        return len(self.elements)

    @classmethod
    def of_protein(
        cls,
        elements: NDArray[np.str_],
        positions_angstrom: NDArray[np.float64],
        *,
        names: NDArray[np.str_] | None = None,
        residue_numbers: NDArray[np.int64] | None = None,
    ) -> "AtomicModel":
        """Return a model of light protein atoms at rest with mean hydrogens, masses and volumes.

        Parameters
        ----------
        elements : shape (n,)
            Symbols from `MASS_DALTON`.
        positions_angstrom : shape (n, 3)
        names, residue_numbers : shape (n,)
            Empty names and consecutive numbers if not given.
        """
        elements = np.asarray(elements)
        hydrogens = np.array([HYDROGENS_PER_ATOM.get(str(e), 0.0) for e in elements], dtype=np.float64)
        masses = np.array([MASS_DALTON[str(e)] for e in elements]) + hydrogens * MASS_DALTON["H"]
        n = len(elements)
        return cls(
            elements=elements,
            positions_angstrom=np.asarray(positions_angstrom, dtype=np.float64),
            occupancies=np.ones(n),
            hydrogens=hydrogens,
            masses_dalton=masses,
            volumes_angstrom3=masses * PROTEIN_VOLUME_ANGSTROM3_PER_DALTON,
            b_factors_angstrom2=np.zeros(n),
            names=np.full(n, "", dtype="U4") if names is None else names,
            residue_numbers=np.arange(n) if residue_numbers is None else residue_numbers,
        )

    @property
    def mass_dalton(self) -> float:
        """Total mass with hydrogens."""
        return float(self.masses_dalton @ self.occupancies)

    @property
    def centre_of_mass_angstrom(self) -> NDArray[np.float64]:
        """Mean position weighted by mass, shape (3,)."""
        weights = self.masses_dalton * self.occupancies
        centre: NDArray[np.float64] = weights @ self.positions_angstrom / weights.sum()
        return centre

    @property
    def diameter_angstrom(self) -> float:
        """Diameter of the smallest sphere around the origin that holds every atom and its van der Waals radius."""
        return 2.0 * (float(np.linalg.norm(self.positions_angstrom, axis=1).max()) + 1.7)

    def centred(self) -> "AtomicModel":
        """Return the model with its centre of mass at the origin."""
        return self.moved(-self.centre_of_mass_angstrom)

    def moved(self, shift_angstrom: NDArray[np.float64]) -> "AtomicModel":
        """Return the model with (x, y, z) added to every position."""
        return self._with_positions(self.positions_angstrom + shift_angstrom)

    def rotated(self, rotation: NDArray[np.float64]) -> "AtomicModel":
        """Return the model with each position v at ``rotation`` v."""
        return self._with_positions(self.positions_angstrom @ np.asarray(rotation).T)

    def mirrored(self) -> "AtomicModel":
        """Return the model of the other hand, z turned into −z."""
        return self._with_positions(self.positions_angstrom * np.array([1.0, 1.0, -1.0]))

    def take(self, indices: NDArray[np.int64] | NDArray[np.bool_]) -> "AtomicModel":
        """Return the atoms of these indices, or where a mask is true."""
        return AtomicModel(**{name: getattr(self, name)[indices] for name in self.__dataclass_fields__})

    def repeated(self, operators: NDArray[np.float64]) -> "AtomicModel":
        """Return one copy of the model under each of the rotations ``operators``, shape (g, 3, 3)."""
        n_copies = len(operators)
        columns = {name: np.concatenate([getattr(self, name)] * n_copies) for name in self.__dataclass_fields__}
        positions = np.einsum("gij,nj->gni", np.asarray(operators), self.positions_angstrom)
        columns["positions_angstrom"] = positions.reshape(-1, 3)
        # a gap between copies keeps the last residue of one apart from the first of the next
        span = int(self.residue_numbers.max()) + 2 if len(self) else 0
        columns["residue_numbers"] = columns["residue_numbers"] + np.repeat(np.arange(n_copies) * span, len(self))
        return AtomicModel(**columns)

    def _with_positions(self, positions: NDArray[np.float64]) -> "AtomicModel":
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return AtomicModel(**{**columns, "positions_angstrom": positions})
