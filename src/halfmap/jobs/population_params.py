"""What commands of populations take alike."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PopulationParams:
    """A population."""

    population: Path
    """The .population file, or the folder that holds it."""


@dataclass(frozen=True, kw_only=True)
class SpeciesOfPopulation(PopulationParams):
    """A species of a population."""

    species: str
    """Name of the species."""


@dataclass(frozen=True, kw_only=True)
class MeasuredSpeciesParams(SpeciesOfPopulation):
    """A species whose maps are measured again."""

    seed: int = 1
    """Seed of the random phases."""
