"""Lists of picks as jobs take them: in whatever form they come, laid out by the micrographs they lie in."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from halfmap.data.picks import Picks
from halfmap.errors import InconsistentDataError
from halfmap.io.relion import read_particles
from halfmap.io.relion_picks import read_picks
from halfmap.jobs.micrograph_inputs import OpenedMicrographs, open_micrographs, open_micrographs_named
from halfmap.project.job import JobContext


def open_picked_micrographs(
    context: JobContext, lists: Sequence[Path], micrographs: Path | None, pixel_size_angstrom: float | None
) -> OpenedMicrographs:
    """Open the micrographs of a table, or, without one, those that the first list of picks names.

    Raises
    ------
    InconsistentDataError
        Neither leads to micrographs, or their pixel size is not known.
    """
    if micrographs is not None:
        return open_micrographs(context, micrographs, pixel_size_angstrom=pixel_size_angstrom)
    named = read_picks(lists[0], (), project_root=context.project).micrographs
    return open_micrographs_named(context, lists[0], named, pixel_size_angstrom=pixel_size_angstrom)


def picks_by_micrograph(context: JobContext, path: Path, opened: OpenedMicrographs) -> list[Picks | None]:
    """Read a list of picks and lay it out by micrographs.

    Parameters
    ----------
    context : the job.
    path : ``autopick.star``, the folder of a picking job, a folder of coordinate files, or a table of particles. Junk
        in the truth of a simulation (``halfmapIsJunk``) is left out.
    opened : the micrographs.

    Returns
    -------
    The picks of each micrograph; None where the list does not say that it was searched.

    Raises
    ------
    InconsistentDataError
        No micrograph of the list is among them.
    """
    picks = read_picks(path, opened.given_names, project_root=context.project)
    if "halfmapIsJunk" in picks:
        picks = picks.take(picks["halfmapIsJunk"].astype(str) == "0")
    return _laid_out(picks, path, opened)


def particles_by_micrograph(path: Path, opened: OpenedMicrographs) -> list[Picks | None]:
    """Read where particles lie, their refined offsets taken into account, laid out by micrographs.

    Raises
    ------
    InconsistentDataError
        The table has no micrographs or coordinates, or none of its micrographs is among those opened.
    """
    particles = read_particles(path)
    for column, label in (("micrograph_name", "rlnMicrographName"), ("position_pixel", "rlnCoordinateX")):
        if column not in particles:
            raise InconsistentDataError(
                f"{path} must have the column _{label}; got none; give particles that know where they lie."
            )
    origin = particles["origin_angstrom"] if "origin_angstrom" in particles else np.zeros((len(particles), 2))
    columns: dict[str, np.ndarray] = {
        name: particles[name] for name in ("uid", "micrograph_name", "position_pixel") if name in particles
    }
    found = _laid_out(Picks(columns={**columns, "origin_angstrom": origin}, source=path.name), path, opened)
    return [
        None
        if one is None
        else one.with_columns(position_pixel=one.position_pixel - one["origin_angstrom"] / float(size))
        for one, size in zip(found, opened.pixel_size_angstrom, strict=True)
    ]


def _laid_out(picks: Picks, path: Path, opened: OpenedMicrographs) -> list[Picks | None]:
    """Return the picks of each micrograph.

    Micrographs are known by their name, or, where two programs gave them different folders or endings, by the stem of
    their file, if only one has it.
    """
    stems = Counter(Path(name).stem for name in opened.names)
    known = {Path(name).stem: index for index, name in enumerate(opened.names) if stems[Path(name).stem] == 1}
    known |= {name: index for names in (opened.given_names, opened.names) for index, name in enumerate(names)}
    found: list[Picks | None] = [None] * len(opened.names)
    for name, rows in picks.by_micrograph().items():
        index = known.get(name, known.get(Path(name).stem))
        if index is not None:
            found[index] = picks.take(rows)
    if all(one is None for one in found):
        named = ", ".join(picks.micrographs[:3]) or "no micrograph"
        raise InconsistentDataError(
            f"The positions of {path} must lie in the micrographs given; got none that do: it names {named}, the "
            f"micrographs are {', '.join(opened.names[:3])}; make the names equal."
        )
    return found
