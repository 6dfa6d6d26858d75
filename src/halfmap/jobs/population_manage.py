"""``halfmap population create``, ``status``, ``items`` and ``versions``: what needs no computing."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from halfmap.errors import InputError, ProjectError
from halfmap.jobs.population_params import PopulationParams
from halfmap.project.job import ImmediateCommand

if TYPE_CHECKING:
    from halfmap.data.population import DataSource, SourceItem
    from halfmap.jobs.population_files import OpenPopulation
    from halfmap.jobs.population_members import OpenSource


@dataclass(frozen=True, kw_only=True)
class CreateParams:
    """What `population create` takes."""

    folder: Path
    """Folder of the population; species and their versions go below it. It is made if it is missing."""

    name: str
    """Name of the population, and of its file."""


@dataclass(frozen=True, kw_only=True)
class ItemsParams(PopulationParams):
    """What `population items` takes."""

    action: Literal["list", "exclude", "include"] = "list"
    """List items, exclude some from their source, or take them in again."""

    source: str | None = None
    """Name of the source; all of them are listed where left out."""

    names: tuple[str, ...] = ()
    """Items to exclude or include, by their names with or without ending."""


@dataclass(frozen=True, kw_only=True)
class VersionsParams(PopulationParams):
    """What `population versions` takes."""

    action: Literal["list", "checkout"] = "list"
    """List versions, or bring one into use again."""

    member: str | None = None
    """Name of the species or source; all are listed where left out."""

    version: str | None = None
    """The version to bring into use, or the beginning of its name."""

    discard: bool = False
    """Bring it into use even where files were changed by hand since the last version; those changes are lost."""


def create(params: CreateParams) -> Iterator[str]:
    """Make an empty population and yield its path."""
    from halfmap.data.population import Population
    from halfmap.io.warp_population import write_population
    from halfmap.jobs.population_files import check_name

    path = params.folder / f"{check_name(params.name)}.population"
    present = sorted(params.folder.glob("*.population"))
    if present:
        raise InputError(
            f"The folder of a new population must hold none yet; got {present[0]}; choose another folder, as species "
            "of two populations in one would be mixed."
        )
    write_population(path, Population(name=params.name))
    yield str(path)


def status(params: PopulationParams) -> Iterator[str]:
    """Yield species and sources with what is known of them, and what needs attention."""
    from halfmap.jobs.population_files import open_population, spelled_resolution
    from halfmap.jobs.text_table import aligned
    from halfmap.project import lock

    opened = open_population(params.population)
    yield f"{opened.population.name}: {opened.path}"
    rows: list[tuple[object, ...]] = [
        ("species", "resolution", "B (Å²)", "symmetry", "pixel (Å)", "box", "samples", "particles", "items", "version")
    ]
    for one in opened.species:
        species, particles = one.species, one.particles()
        b_factor = "–" if species.b_factor_angstrom2 is None else f"{species.b_factor_angstrom2:.0f}"
        rows.append(
            (
                *(species.name, spelled_resolution(species), b_factor, species.symmetry),
                *(f"{species.pixel_size_angstrom:g}", species.box_pixel, species.n_temporal_samples),
                *(
                    len(particles),
                    len(set(particles.source_hash)),
                    f"{species.version} {_when(one.versions.history())}",
                ),
            )
        )
    yield from aligned(rows) if len(rows) > 1 else ["no species yet"]
    rows = [("source", "kind", "pixel (Å)", "items", "not used", "images at most", "particles", "version")]
    of_hash = _particles_of_hash(opened)
    for source in opened.sources:
        said = source.source
        n_particles = sum(sum(of_hash.get(item.hash, {}).values()) for item in said.items)
        rows.append(
            (
                *(said.name, _kind(said), f"{said.pixel_size_angstrom:g}", len(said.items)),
                *(len(source.items_not_used()), "all" if said.max_images < 1 else said.max_images, n_particles),
                f"{said.version[:8]} {_when(source.versions.history())}",
            )
        )
    yield from aligned(rows) if len(rows) > 1 else ["no sources yet"]
    for member in opened.members:
        for name in member.versions.changed_files():
            yield f"changed since version {member.versions.live_version[:8]}: {member.path.parent / name}"
    yield from _broken_items(opened)
    yield from _sources_gone_on(opened)
    holder = lock.holder(opened.path.parent)
    if holder is not None and not holder.is_gone:
        yield f"in use by {holder}"


def _broken_items(opened: "OpenPopulation") -> Iterator[str]:
    """Yield which items a refinement would set aside."""
    from halfmap.jobs.population_images import why_broken

    for source in opened.sources:
        for item in source.source.items:
            if (reason := why_broken(source, item)) is not None:
                name = source.source.name
                yield f"cannot be used: {item.name} of {name}, as {reason.rstrip('.')}; mend it, or see items exclude"


def _sources_gone_on(opened: "OpenPopulation") -> Iterator[str]:
    """Yield which sources have other versions than those that the maps and poses of species were made with."""
    for one in opened.species:
        for source in (each.source for each in opened.sources):
            used = one.species.used_sources.get(source.guid, source.version)
            if used != source.version:
                yield (
                    f"{one.species.name} was made with version {used[:8]} of {source.name}, which is at "
                    f"{source.version[:8]} now"
                )


def items(params: ItemsParams) -> Iterator[str]:
    """List items, exclude or include some; a change makes a version of the source."""
    if params.action == "list":
        yield from _list_items(params)
        return
    if params.source is None or not params.names:
        raise InputError(
            f"`population items … {params.action}` must name a source and items; got "
            f"{params.source or 'no source'} and {len(params.names)} items; give SOURCE NAME …"
        )
    yield from _change_items(params, params.source)


def versions(params: VersionsParams) -> Iterator[str]:
    """List versions, or bring one into use again."""
    from halfmap.jobs.population_files import changing, open_population
    from halfmap.jobs.text_table import aligned

    if params.action == "list":
        opened = open_population(params.population)
        members = opened.members if params.member is None else (opened.find(params.member),)
        for member in members:
            live = member.versions.live_version
            rows: list[tuple[str, ...]] = [(member.path.stem, "version", "after", "made", "")]
            for version, previous, made in member.versions.history():
                mark = "in use" if version == live else ""
                rows.append(("", version, previous or "–", f"{made:%Y-%m-%d %H:%M:%S}", mark))
            yield from aligned(rows)
        return
    if params.member is None or params.version is None:
        raise InputError("`population versions … checkout` must name a species or source and a version; got less.")
    said: list[str] = []
    with changing(params.population, said.append) as opened:
        member = opened.find(params.member)
        changed = member.versions.changed_files()
        if changed and not params.discard:
            raise ProjectError(
                f"Files of {params.member} must be as their version has them before another is brought into use; got "
                f"{', '.join(changed)} changed since; keep a new mask with `halfmap population update-mask`, or lose "
                "the changes with --discard."
            )
        version = member.versions.full_version(params.version)
        restored = member.versions.checkout(version)
    yield from said
    yield f"{params.member} is at version {version}: {len(restored)} files restored."


def _list_items(params: ItemsParams) -> Iterator[str]:
    from halfmap.jobs.population_files import open_population
    from halfmap.jobs.text_table import aligned

    opened = open_population(params.population)
    of_hash = _particles_of_hash(opened)
    names = [one.species.name for one in opened.species]
    rows: list[tuple[object, ...]] = [("source", "item", "images", "weight", *names, "")]
    for source in opened.sources if params.source is None else (opened.find_source(params.source),):
        for item in source.source.items:
            counts = of_hash.get(item.hash, Counter())
            images, why = _images(source, item)
            rows.append(
                (source.source.name, item.name, images, f"{item.weight:g}", *(counts.get(n, 0) for n in names), why)
            )
        for root, why in source.items_not_used().items():
            rows.append((source.source.name, root, "–", "–", *("–" for _ in names), f"not used: {why}"))
    yield from aligned(rows)


def _images(source: "OpenSource", item: "SourceItem") -> tuple[str, str]:
    """Return how many images of an item are used, of how many; and what is wrong with it."""
    from halfmap.jobs.population_images import why_broken

    if (reason := why_broken(source, item)) is not None:
        return "–", f"cannot be used: {reason}"
    series = source.read_item(item)
    return f"{int(series.is_used.sum())}/{len(series)}", ""


def _change_items(params: ItemsParams, name: str) -> Iterator[str]:
    from halfmap.jobs.population_files import changing
    from halfmap.jobs.population_sources import commit_source, find_known_item
    from halfmap.multiparticle.linking import root_name

    said: list[str] = []
    with changing(params.population, said.append) as opened:
        source = opened.find_source(name)
        kept = {root_name(item.name): item for item in source.source.items}
        wanted = [root_name(item) for item in params.names]
        if params.action == "exclude":
            unknown = [item for item in wanted if item not in kept]
            if unknown:
                raise InputError(
                    f"Items of {name} must be among those it uses; got {', '.join(unknown)}; see `population items`."
                )
            changed = [item for item in source.source.items if root_name(item.name) not in wanted]
            if not changed:
                raise InputError(f"A source must keep an item; got all {len(kept)} of {name} excluded; leave some.")
        else:
            new = [find_known_item(source, item) for item in wanted if item not in kept]
            changed = sorted([*source.source.items, *new], key=lambda item: item.name)
        with source.versions.staging() as staged:
            made = commit_source(source, staged, replace(source.source, items=tuple(changed)))
    yield from said
    if made is None:
        yield f"{name} has not changed: {len(changed)} items."
    else:
        yield f"{name} uses {len(changed)} items now, version {made.version}."


def _particles_of_hash(opened: "OpenPopulation") -> dict[str, Counter[str]]:
    """Return how many particles of each species are in the item of each hash."""
    found: dict[str, Counter[str]] = {}
    for one in opened.species:
        for hashed in one.particles().source_hash:
            found.setdefault(hashed, Counter())[one.species.name] += 1
    return found


def _kind(source: "DataSource") -> str:
    return "tilt series" if source.is_of_tilt_series else "frame series"


def _when(history: list) -> str:
    return f"of {history[-1][2]:%Y-%m-%d %H:%M}" if history else ""


CREATE = ImmediateCommand(
    command="population create",
    parameters=CreateParams,
    run=create,
    summary="Make an empty population",
    positional=("folder",),
)
STATUS = ImmediateCommand(
    command="population status",
    parameters=PopulationParams,
    run=status,
    summary="Show species and sources of a population, and what was changed by hand",
    positional=("population",),
)
ITEMS = ImmediateCommand(
    command="population items",
    parameters=ItemsParams,
    run=items,
    summary="List the items of sources; exclude or include some",
    positional=("population", "action", "source", "names"),
)
VERSIONS = ImmediateCommand(
    command="population versions",
    parameters=VersionsParams,
    run=versions,
    summary="List versions of species and sources; bring one into use again, bit for bit",
    positional=("population", "action", "member", "version"),
)
