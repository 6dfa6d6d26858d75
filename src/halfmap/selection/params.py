"""What can be set about selections."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt


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
