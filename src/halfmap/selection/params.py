"""What can be set about selections."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SplitParams:
    """How rows are shared among subsets."""

    size: Annotated[int, Ge(1)] | None = None
    """Rows in each subset."""

    number: Annotated[int, Ge(1)] | None = None
    """Number of subsets. With a size as well, both are honoured and what is left over goes to a file of its own."""

    shuffle: bool = False
    """Permute the rows first."""

    seed: int = 1
    """Seed of the permutation."""


@dataclass(frozen=True, kw_only=True)
class ValuesParams:
    """Which values of a column are wanted."""

    label: str
    """Column, as rlnCtfMaxResolution, with or without its underscore or rln."""

    min: float | None = None
    """Smallest value kept."""

    max: float | None = None
    """Largest value kept."""


@dataclass(frozen=True, kw_only=True)
class StatisticsParams:
    """How unusual an image may be."""

    sigma: Annotated[float, Gt(0)] = 4.0
    """Keep images whose mean and standard deviation lie within this many ensemble deviations of the ensemble's."""


@dataclass(frozen=True, kw_only=True)
class DuplicatesParams:
    """What counts as the same particle."""

    min_distance_angstrom: Annotated[float, Gt(0)] = 30.0
    """Particles of one micrograph at this distance or nearer are the same one."""

    by: str | None = None
    """Column whose larger value wins. Default: the figure of merit; without one the first row wins."""


@dataclass(frozen=True, kw_only=True)
class ClassesParams:
    """Which classes of a 2D classification are wanted.

    Raises
    ------
    InputError
        Nothing says which, or a class is both wanted and unwanted.
    """

    classes: tuple[Annotated[int, Ge(1)], ...] = ()
    """Numbers of the classes to keep, as in the gallery: 1,4,7."""

    exclude: tuple[Annotated[int, Ge(1)], ...] = ()
    """Numbers of classes not to keep, whatever else holds."""

    auto: bool = False
    """Keep the classes that the class ranker scores 0.5 or more; --min-score sets another threshold."""

    min_score: Annotated[float, Ge(0), Le(1)] | None = None
    """Lowest score kept, from 0 (rubbish) to 1."""

    min_particles: Annotated[int, Ge(1)] | None = None
    """Keep the next best scores too, until the selection holds so many particles."""

    min_classes: Annotated[int, Ge(1)] | None = None
    """Keep the next best scores too, until so many classes are selected."""

    min_resolution_angstrom: Annotated[float, Gt(0)] | None = None
    """Worst resolution kept, in Å: the FRC's where the run has one, else the model's signal-to-noise ratio's."""

    recenter: bool = False
    """Move the centre of mass of each class average to the centre of its box, and its particles with it."""

    regroup: Annotated[int, Ge(1)] | None = None
    """Join micrographs of like scale into about so many groups of particles."""

    def __post_init__(self) -> None:
        both = sorted(set(self.classes) & set(self.exclude))
        if both:
            raise InputError(
                f"A class must be kept or excluded; got {', '.join(map(str, both))} in both --classes and --exclude; "
                "remove it from one of them."
            )
        if (self.min_particles or self.min_classes) and not self.is_scored:
            raise InputError(
                "--min-particles and --min-classes need scores to add the next best classes by; got neither --auto nor "
                "--min-score; add one of them."
            )

    @property
    def is_scored(self) -> bool:
        """Whether scores decide."""
        return self.auto or self.min_score is not None

    @property
    def threshold(self) -> float:
        """Lowest score kept, where scores decide."""
        return 0.5 if self.min_score is None else self.min_score


@dataclass(frozen=True, kw_only=True)
class ExpansionParams:
    """By which symmetry particles are copied."""

    symmetry: str
    """Point group: C2, C3, …, D2, …, T, O, I1 to I4, axes as in RELION."""
