"""A population as its files hold it: the sources and species that it lists, found, read and told apart."""

import math
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os.path import relpath
from pathlib import Path

from halfmap.data.population import Member, Population, Species
from halfmap.errors import InputError
from halfmap.io import warp_population
from halfmap.io.warp_population import member_path
from halfmap.jobs.population_members import OpenSource, OpenSpecies
from halfmap.jobs.versioned_folder import held

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenPopulation:
    """A population with all that it lists.

    Parameters
    ----------
    path : the ``.population`` file.
    population : what it says.
    species, sources : in its order.
    """

    path: Path
    population: Population
    species: tuple[OpenSpecies, ...]
    sources: tuple[OpenSource, ...]

    @property
    def members(self) -> tuple[OpenSpecies | OpenSource, ...]:
        """Species and sources."""
        return (*self.species, *self.sources)

    def find_species(self, name: str) -> OpenSpecies:
        """Return the species of a name.

        Raises
        ------
        InputError
            There is none.
        """
        for one in self.species:
            if one.species.name == name:
                return one
        known = ", ".join(one.species.name for one in self.species) or "none yet"
        raise InputError(f"A species must be one of {known}; got {name!r}; see `halfmap population status`.")

    def find_source(self, name: str) -> OpenSource:
        """Return the source of a name.

        Raises
        ------
        InputError
            There is none.
        """
        for one in self.sources:
            if one.source.name == name:
                return one
        known = ", ".join(one.source.name for one in self.sources) or "none yet"
        raise InputError(f"A source must be one of {known}; got {name!r}; see `halfmap population status`.")

    def find(self, name: str) -> OpenSpecies | OpenSource:
        """Return the species or source of a name.

        Raises
        ------
        InputError
            There is none, or one of each.
        """
        names = [one.species.name if isinstance(one, OpenSpecies) else one.source.name for one in self.members]
        found = [one for one, known in zip(self.members, names, strict=True) if known == name]
        if len(found) == 1:
            return found[0]
        raise InputError(
            f"A species or source must be one of {', '.join(names) or 'none yet'}; got {name!r}"
            f"{', the name of one of each' if found else ''}; see `halfmap population status`."
        )

    def chosen_sources(self, names: Sequence[str]) -> tuple[OpenSource, ...]:
        """Return the sources of these names, all where there are none.

        Raises
        ------
        InputError
            A name is of no source, or the population has no source.
        """
        if not self.sources:
            raise InputError(
                f"A population must have sources before it gets particles; got none in {self.path}; add one with "
                "`halfmap population add-source`."
            )
        return tuple(self.find_source(name) for name in names) or self.sources

    def listing(self, *, species: Path | None = None, source: Path | None = None) -> Population:
        """Return the population with one more species or source, by the path of its file."""

        def member(guid: str, path: Path) -> Member:
            return Member(guid=guid, path=Path(relpath(path, self.path.parent)).as_posix())

        listed = self.population
        if species is not None:
            guid = warp_population.read_species(species).guid
            listed = replace(listed, species=(*listed.species, member(guid, species)))
        if source is not None:
            guid = warp_population.read_source(source).guid
            listed = replace(listed, sources=(*listed.sources, member(guid, source)))
        return listed


def open_population(path: Path) -> OpenPopulation:
    """Read a population and all that it lists.

    Parameters
    ----------
    path : a ``.population`` file, or a folder that holds one.

    Raises
    ------
    InputError
        There is none, or several in the folder.
    FormatError
        A file is broken or missing.
    InconsistentDataError
        A file has another GUID than the population says.
    """
    path = find_population(path)
    population = warp_population.read_population(path)
    species = (
        OpenSpecies(path=member_path(path, member).resolve(), species=warp_population.read_species_of(path, member))
        for member in population.species
    )
    sources = (
        OpenSource(path=member_path(path, member).resolve(), source=warp_population.read_source_of(path, member))
        for member in population.sources
    )
    return OpenPopulation(path=path, population=population, species=tuple(species), sources=tuple(sources))


def find_population(path: Path) -> Path:
    """Return the ``.population`` file that a file or folder stands for.

    Raises
    ------
    InputError
        There is none, or several.
    """
    if path.is_dir():
        found = sorted(path.glob("*.population"))
        if len(found) == 1:
            return found[0].resolve()
        listed = ", ".join(one.name for one in found) or "none"
        raise InputError(f"The folder of a population must hold one .population file; got {listed} in {path}; name it.")
    if not path.is_file():
        raise InputError(
            f"A population must be a .population file; got {path}; make one with `halfmap population create`."
        )
    return path.resolve()


@contextmanager
def changing(path: Path, say: Callable[[str], None]) -> Iterator[OpenPopulation]:
    """Yield a population that no other command changes meanwhile; what killed ones left is mended first.

    Parameters
    ----------
    path : file or folder.
    say : takes a sentence about what was mended.

    Raises
    ------
    ProjectError
        Another command is at work on it, or on one of its sources.
    """
    path = find_population(path)
    population = warp_population.read_population(path)
    members = [member_path(path, member) for member in (*population.species, *population.sources)]
    with held([path.parent, *(member.parent for member in members if member.parent.is_dir())], say):
        opened = open_population(path)
        mended = [said for one in opened.members if (said := one.versions.heal()) is not None]
        for said in mended:
            say(said)
        yield open_population(path) if mended else opened


def new_guid() -> str:
    """Return a GUID that nothing else has."""
    return str(uuid.uuid4())


def check_name(name: str) -> str:
    """Return a name of a population, source or species, which is that of files too.

    Raises
    ------
    InputError
        It holds other characters than letters, digits and ``_ . + -``, or begins with a sign.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"A name must be of letters, digits, '_', '.', '+' and '-', and begin with one of the first two; got "
            f"{name!r}; choose another."
        )
    return name


def spelled_resolution(species: Species) -> str:
    """Return the resolution of a species as text."""
    resolution = species.resolution_angstrom
    return "–" if resolution is None or not math.isfinite(resolution) else f"{resolution:.2f} Å"
