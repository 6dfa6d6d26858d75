"""What class averages of simulated particles really are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.classification.agreement import JUNK, Truth

LEAST_PURITY = 0.5
"""A good class holds more than this share of centred particles of one structure."""

LEAST_FRC = 0.5
"""A good class has at least this mean FRC to a true projection, up to `FINEST_CYCLES`."""

FINEST_CYCLES = 6.0
"""Finest detail of that FRC, in cycles per diameter of the mask."""

LEAST_PARTICLES = 10
"""Smaller classes judge no ranker: their purity is a matter of chance, and other programs do not score them either."""

CENTRED_WITHIN = 0.25
"""How far from where it was found to be a particle may lie and count as centred, in its diameters."""


def purity_of_classes(
    truth: Truth,
    class_number: ArrayLike,
    origin_angstrom: NDArray[np.float64],
    diameters_angstrom: Sequence[float],
    classes: ArrayLike,
) -> NDArray[np.float64]:
    """Return for each class the share of its images that show its most frequent structure, whole and centred.

    Parameters
    ----------
    truth : of the particles; junk, and particles off centre, count against every class.
    class_number : found, shape (n,).
    origin_angstrom : found, shape (n, 2).
    diameters_angstrom : of the structures.
    classes : numbers of the classes wanted.

    Returns
    -------
    float64, shape (k,); 0 for an empty class.
    """
    found = np.asarray(class_number, dtype=np.int64)
    diameter = np.array([math.inf, *diameters_angstrom])[truth.structure]
    away = np.linalg.norm(origin_angstrom - truth.origin_angstrom, axis=1)
    good = (truth.structure != JUNK) & (away <= CENTRED_WITHIN * diameter)
    shares = []
    for number in np.asarray(classes, dtype=np.int64):
        mine = found == number
        counts = np.bincount(truth.structure[mine & good], minlength=1)
        shares.append(counts.max() / mine.sum() if mine.any() else 0.0)
    return np.array(shares)


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Class averages whose worth is known.

    Parameters
    ----------
    images, features : as of a `Description`.
    purity : `purity_of_classes`, shape (n,).
    frc : mean FRC to the nearest true projection up to `FINEST_CYCLES`, shape (n,).
    n_particles : of each class, shape (n,).
    stack : number of the stack that a class is from, shape (n,).
    structures : names of what the stack shows, joined by a comma, shape (n,).
    group : stacks that share a structure share a group, which is never divided, shape (n,).
    """

    images: NDArray[np.float32]
    features: NDArray[np.float32]
    purity: NDArray[np.float64]
    frc: NDArray[np.float64]
    n_particles: NDArray[np.int64]
    stack: NDArray[np.int64]
    structures: NDArray[np.object_]
    group: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_pure(self) -> NDArray[np.bool_]:
        """Whether more than half of a class's images show one structure, whole and centred."""
        return self.purity > LEAST_PURITY

    @property
    def is_good(self) -> NDArray[np.bool_]:
        """Whether a class is pure and its average is a view of the structure."""
        return self.is_pure & (self.frc >= LEAST_FRC)

    @property
    def weight(self) -> NDArray[np.float64]:
        """How much each class has to teach: less, the fewer particles its purity is known from."""
        return self.n_particles / (self.n_particles + LEAST_PARTICLES)

    @property
    def is_sure(self) -> NDArray[np.bool_]:
        """Whether a class is large enough to judge by."""
        return self.n_particles >= LEAST_PARTICLES

    def take(self, rows: NDArray) -> "Examples":
        """Return the examples with these numbers, or where a mask is true."""
        return Examples(**{name: values[rows] for name, values in vars(self).items()})

    @classmethod
    def joined(cls, parts: Sequence["Examples"]) -> "Examples":
        """Return the examples of several parts, one after the other."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})
