"""Which item of which data source a particle is in, and why some are in none."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from halfmap.data.population import DataSource, SourceItem, SpeciesParticles
from halfmap.errors import InconsistentDataError

_ENDINGS = (".tomostar", ".mrc", ".mrcs", ".tif", ".tiff", ".eer", ".st", ".xml", ".star")
_PIXEL_SIZE = re.compile(r"_\d+(?:\.\d+)?Apx$")


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    """Particles of one name that are in no item.

    Parameters
    ----------
    name : of the item that they say they are in.
    n_particles : with this name.
    reason : the likely one, a clause with what to do.
    """

    name: str
    n_particles: int
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Link:
    """Particles with the items that they are in.

    Parameters
    ----------
    particles : those in an item of a source, with its name and hash.
    is_linked : (N,), of all particles that were given.
    unmatched : names that no item has, the most frequent first.
    n_of_source : particles and items with particles, by name of the source.
    n_outside : linked particles outside the volume or image of their source.
    """

    particles: SpeciesParticles
    is_linked: NDArray[np.bool_]
    unmatched: tuple[Unmatched, ...]
    n_of_source: Mapping[str, tuple[int, int]]
    n_outside: int


def root_name(name: str) -> str:
    """Return an item's name without folder and endings: ``a/TS_1.mrc.tomostar`` → ``TS_1``."""
    root = str(name).replace("\\", "/").rsplit("/", 1)[-1]
    while (ending := next((one for one in _ENDINGS if root.lower().endswith(one)), None)) is not None:
        root = root[: -len(ending)]
    return root


def link(
    particles: SpeciesParticles, sources: Sequence[DataSource], *, not_used: Mapping[str, str] | None = None
) -> Link:
    """Find the item of each particle.

    Parameters
    ----------
    particles : with names, hashes or both; a hash goes before a name, as in M.
    sources : to look in.
    not_used : root names of items that exist and are in none of the sources → why.

    Returns
    -------
    Link

    Raises
    ------
    InconsistentDataError
        Items of two sources have the name of particles without hash.

    Notes
    -----
    Names are compared without folder and endings, and, where none is the same, without a pixel size as Warp puts
    it behind the names of its tomograms (``TS_1_10.00Apx``).
    """
    place_of_hash = {item.hash: (source, item) for source in sources for item in source.items}
    places_of_root: dict[str, list[tuple[DataSource, SourceItem]]] = {}
    for source in sources:
        for item in source.items:
            places_of_root.setdefault(root_name(item.name), []).append((source, item))

    found: dict[tuple[str, str], tuple[DataSource, SourceItem] | None] = {}
    pairs = list(zip(map(str, particles.source_name), map(_text, particles.source_hash), strict=True))
    for name, hashed in set(pairs):
        found[name, hashed] = place_of_hash.get(hashed) if hashed else _place_of_name(name, places_of_root)
    places = [found[pair] for pair in pairs]
    is_linked = np.array([place is not None for place in places], dtype=bool)

    linked = [place for place in places if place is not None]
    kept = replace(
        particles.take(is_linked),
        source_name=np.array([item.name for _, item in linked], dtype=object),
        source_hash=np.array([item.hash for _, item in linked], dtype=object),
    )
    missed = Counter(pair for pair, place in zip(pairs, places, strict=True) if place is None)
    n_of_source = {}
    for source in sources:
        inside = [item.hash for of, item in linked if of.guid == source.guid]
        n_of_source[source.name] = (len(inside), len(set(inside)))
    return Link(
        particles=kept,
        is_linked=is_linked,
        unmatched=tuple(
            Unmatched(name=name, n_particles=n, reason=_reason(name, hashed, places_of_root, not_used or {}))
            for (name, hashed), n in missed.most_common()
        ),
        n_of_source=n_of_source,
        n_outside=_n_outside(kept, [source for source, _ in linked]),
    )


def check_apart(sources: Iterable[DataSource], added: DataSource) -> None:
    """Raise unless a data source has no name, GUID or data in common with others.

    Raises
    ------
    InconsistentDataError
        Another source has its name, its GUID, or an item with the same data.
    """
    for other in sources:
        for what, one, two in (("name", other.name, added.name), ("GUID", other.guid, added.guid)):
            if one == two:
                raise InconsistentDataError(
                    f"Sources of a population must have different {what}s; got {one} twice; "
                    f"{'choose another with --name' if what == 'name' else 'it is in the population already'}."
                )
        hashes = {item.hash: item.name for item in other.items}
        shared = [(hashes[item.hash], item.name) for item in added.items if item.hash in hashes]
        if shared:
            raise InconsistentDataError(
                f"Sources of a population must hold different data; got {len(shared)} of {len(added.items)} items of "
                f"{added.name} that {other.name} has too, such as {shared[0][1]} (there {shared[0][0]}); leave them "
                "out with --files."
            )


def find_duplicates(
    added: SpeciesParticles, present: SpeciesParticles, *, distance_angstrom: float
) -> NDArray[np.bool_]:
    """Return which new particles a species has already.

    Parameters
    ----------
    added, present : linked particles.
    distance_angstrom : a particle of the same item (by hash) that is this near or nearer is the same one.

    Returns
    -------
    bool, (N,): also of the later one of two new particles that are the same.
    """
    is_duplicate = np.zeros(len(added), dtype=bool)
    there, here = present.position_angstrom.mean(1), added.position_angstrom.mean(1)
    for hashed in set(added.source_hash):
        rows = np.flatnonzero(added.source_hash == hashed)
        old = there[present.source_hash == hashed]
        if len(old):
            distance, _ = cKDTree(old).query(here[rows])
            is_duplicate[rows] = distance <= distance_angstrom
        fresh = rows[~is_duplicate[rows]]
        for one, other in sorted(cKDTree(here[fresh]).query_pairs(distance_angstrom)) if len(fresh) else ():
            if not is_duplicate[fresh[one]]:
                is_duplicate[fresh[other]] = True
    return is_duplicate


def joined(first: SpeciesParticles, second: SpeciesParticles) -> SpeciesParticles:
    """Return the particles of both; a further column that only one has is ``null`` for the other.

    Raises
    ------
    InconsistentDataError
        They have different numbers of temporal samples.
    """
    if first.n_samples != second.n_samples:
        raise InconsistentDataError(
            f"Particles of a species must have the same number of temporal samples; got {first.n_samples} and "
            f"{second.n_samples}; use `halfmap population resample-trajectories` first."
        )

    def both(name: str) -> NDArray[np.object_]:
        one, two = (
            part.further[name] if name in part.further else np.full(len(part), "null", dtype=object)
            for part in (first, second)
        )
        return np.concatenate([one, two])

    arrays = ("position_angstrom", "rotation", "random_subset", "source_name", "source_hash", "uid")
    return SpeciesParticles(
        **{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in arrays},
        further={name: both(name) for name in {**first.further, **second.further}},
    )


def _text(value: object) -> str:
    return "" if value is None or str(value) in ("", "null", "None") else str(value)


def _place_of_name(
    name: str, places_of_root: Mapping[str, list[tuple[DataSource, SourceItem]]]
) -> tuple[DataSource, SourceItem] | None:
    root = root_name(name)
    places = places_of_root.get(root) or places_of_root.get(_PIXEL_SIZE.sub("", root)) or []
    if len(places) > 1:
        raise InconsistentDataError(
            f"The item of a particle must be in one source; got {name} in {places[0][0].name} and "
            f"{places[1][0].name}; name one with --sources."
        )
    return places[0] if places else None


def _reason(
    name: str,
    hashed: str,
    places_of_root: Mapping[str, list[tuple[DataSource, SourceItem]]],
    not_used: Mapping[str, str],
) -> str:
    root = root_name(name)
    short = _PIXEL_SIZE.sub("", root)
    for known in (root, short):
        if known in not_used:
            return not_used[known]
    if hashed and root in places_of_root:
        return (
            f"the item of that name in {places_of_root[root][0][0].name} has other raw data, moved, compressed or "
            "replaced since; link by name, from a table without hashes"
        )
    lower = {one.lower(): one for one in places_of_root}
    if root.lower() in lower:
        return f"the item is called {lower[root.lower()]}: upper and lower case differ"
    parts = [one for one in places_of_root if one in root or (root and root in one)]
    if parts:
        return f"it resembles {max(parts, key=len)}: change the names in the table to those of the items"
    near = get_close_matches(root, list(places_of_root), n=1)
    if near:
        return f"the nearest name of an item is {near[0]}"
    return "no item has a name like it: add its source, or name that among --sources"


def _n_outside(particles: SpeciesParticles, sources: Sequence[DataSource]) -> int:
    """Count particles outside the tomograms or images of their sources."""
    if not len(particles):
        return 0
    size = np.array([np.array(source.dimensions_pixel) * source.pixel_size_angstrom for source in sources])
    is_3d = np.array([source.is_of_tilt_series for source in sources])
    position = particles.position_angstrom.mean(1)
    outside = (position < 0) | (position > size)
    outside[:, 2] &= is_3d  # of a frame series, z is an offset of the defocus
    return int(outside.any(1).sum())
