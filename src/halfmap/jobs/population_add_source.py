"""``halfmap population add-source``: the items of a Warp or RELION project become a source of a population."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from halfmap.errors import InputError
from halfmap.jobs.population_params import PopulationParams
from halfmap.project.job import ImmediateCommand

if TYPE_CHECKING:
    from halfmap.jobs.population_files import OpenPopulation
    from halfmap.jobs.population_members import OpenSource
    from halfmap.jobs.population_sources import FoundItems

_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class AddSourceParams(PopulationParams):
    """What `population add-source` takes."""

    processing: Path
    """What to make it of: the .settings file of a Warp project, of frame series or of tilt series; the tomograms.star
    or corrected_micrographs.star of a RELION project; or a .source file that exists."""

    name: str | None = None
    """Name of the source, and of its file. Default: that of the settings."""

    max_images: Annotated[int, Ge(1)] | None = None
    """Use no more than so many frames or tilts of an item, those of the lowest dose. Default: all."""

    include_unselected: bool = False
    """Take in items that were filtered out for their quality or deselected by hand too."""

    files: Path | None = None
    """Text file with the names of the items to take, one a line."""

    image_dimensions: str | None = None
    """Size of the tilt images of RELION, XxY in pixels, where they are not there to be looked at."""

    tomo_dimensions: str | None = None
    """Size of the tomograms of RELION, XxYxZ in pixels of the tilt images, where the file does not say it."""


def add_source(params: AddSourceParams) -> Iterator[str]:
    """Add a source and yield what it holds; of raw data only the beginning is read."""
    from halfmap.io import warp_population
    from halfmap.jobs.population_files import changing, check_name, new_guid
    from halfmap.jobs.population_members import OpenSource
    from halfmap.jobs.population_sources import commit_source, source_of_settings
    from halfmap.multiparticle.linking import check_apart

    if not params.processing.is_file():
        raise InputError(
            f"What a source is made of must be a file; got {params.processing}; name the .settings file of a Warp "
            "project, the tomograms.star or corrected_micrographs.star of a RELION project, or a .source file."
        )
    only = None if params.files is None else _lines(params.files)
    said: list[str] = []
    with changing(params.population, said.append) as opened:
        others = [one.source for one in opened.sources]
        found = None
        if params.processing.suffix == ".source":
            path = params.processing.resolve()
            source = OpenSource(path=path, source=warp_population.read_source(path))
            check_apart(others, source.source)
        else:
            given: dict[str, Any] = {
                "guid": new_guid(),
                "name": check_name(params.name or params.processing.stem),
                "max_images": params.max_images,
                "only": only,
            }
            if params.processing.suffix == ".star":
                source, found = _of_relion(params, opened, given)
            else:
                source, found = source_of_settings(
                    params.processing, include_unselected=params.include_unselected, **given
                )
            if source.path.exists():
                raise InputError(
                    f"The file of a new source must not exist yet; got {source.path}; give that file instead of the "
                    "settings to add it as it is, or choose another --name."
                )
            check_apart(others, source.source)
            with source.versions.staging() as staged:
                commit_source(source, staged, source.source)
        warp_population.write_population(opened.path, opened.listing(source=source.path))
    yield from said
    kind = "tilt series" if source.source.is_of_tilt_series else "frame series"
    yield f"{source.source.name}: {len(source.source.items)} {kind} pass."
    if found is not None:
        yield from _told(found)
    yield str(source.path)


def _of_relion(
    params: AddSourceParams, opened: "OpenPopulation", given: dict[str, Any]
) -> tuple["OpenSource", "FoundItems"]:
    """Describe the series of a RELION project in a folder of the population."""
    from halfmap.jobs.population_relion_source import source_of_relion

    folder = opened.path.parent / "sources" / given["name"]
    if (folder / f"{given['name']}.source").exists():
        raise InputError(f"The name of a new source must be free; got {folder}; choose another --name.")
    path = params.processing.resolve()
    return source_of_relion(
        path,
        folder,
        project=Path(path.anchor),  # so that every folder above the file is tried
        image_dimensions=params.image_dimensions,
        tomo_dimensions=params.tomo_dimensions,
        **given,
    )


def _told(found: "FoundItems") -> Iterator[str]:
    """Yield what was not used and why."""
    if found.n_taken_in:
        yield f"{found.n_taken_in} of them were filtered out or deselected, and taken in all the same."
    for why, n in Counter(found.not_used.values()).most_common():
        yield f"{n} not used, as {why}."
    for root, why in list(found.set_aside.items())[:_NAMED]:
        yield f"{root} is set aside: {why}"
    if len(found.set_aside) > _NAMED:
        yield f"… and {len(found.set_aside) - _NAMED} more are set aside."
    if found.n_of_averages:
        yield (
            f"The movies of {found.n_of_averages} items are not there: their data are known by the motion-corrected "
            "image instead, so that particles of M are linked to them by name only, and tilt movies cannot be refined."
        )


def _lines(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InputError(f"The list of items must be a text file; got {path}, {error.strerror}; name one.") from error
    found = [name for name in names if name]
    if not found:
        raise InputError(f"The list of items must name some; got none in {path}; give one name a line.")
    return found


COMMAND = ImmediateCommand(
    command="population add-source",
    parameters=AddSourceParams,
    run=add_source,
    summary="Make the items of a Warp or RELION project a source of a population",
    positional=("population", "processing"),
)
