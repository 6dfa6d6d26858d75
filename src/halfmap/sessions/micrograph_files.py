"""Where the micrographs of a session are, and what was picked in them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from halfmap.data.micrographs import MicrographSet
from halfmap.data.picks import Picks
from halfmap.errors import InputError
from halfmap.io import relion
from halfmap.io.images import shape_and_pixel_size
from halfmap.project.folder import find_project
from halfmap.project.record import portable
from halfmap.sessions.manual_picks import PickEdits, save_manual_picks
from halfmap.sessions.observation import Observation
from halfmap.sessions.relion_source import micrographs_table

_WARP_PLACES = ("average", ".")
_SUFFIXES = (".mrc", ".tif", ".tiff", ".png", ".jpg", ".jpeg")
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownPicks:
    """Picks of a micrograph.

    Parameters
    ----------
    position_pixel : shape (n, 2), (x, y).
    labels : by name, a number for each; the figure of merit in any case.
    """

    position_pixel: NDArray[np.float64]
    labels: Mapping[str, NDArray[np.float64]]


def micrograph_path(folder: Path, name: str) -> Path:
    """Return the file of a micrograph.

    Parameters
    ----------
    folder : of the acquisition.
    name : of the micrograph, without folder and ending.

    Raises
    ------
    InputError
        There is no file of it.
    """
    table = micrographs_table(folder)
    tried = []
    if table is not None:
        for listed in _names(table).values():
            if Path(listed).stem == name:
                tried.append(relion.resolve_paths(table, find_project(table.parent), [listed]) / listed)
    tried += [folder / place / f"{name}{suffix}" for place in _WARP_PLACES for suffix in _SUFFIXES]
    for path in tried:
        if path.is_file():
            return path
    raise InputError(f"The image of micrograph {name} must be below {folder}; got none; bring it back.")


def micrograph_pixel_size(folder: Path) -> float | None:
    """Return the pixel size that the table of micrographs gives, in Å; None where there is no table."""
    table = micrographs_table(folder)
    if table is None:
        return None
    optics = relion.read_micrographs(table).optics
    if "micrograph_pixel_size_angstrom" not in optics or not len(optics):
        return None
    return float(optics["micrograph_pixel_size_angstrom"][0])


def sides(path: Path) -> tuple[int, int]:
    """Return the sides (y, x) of a micrograph in pixels.

    Raises
    ------
    FormatError, InputError
        The file is no micrograph.
    """
    return shape_and_pixel_size(path)[0]


def picks_of(seen: Observation, name: str) -> ShownPicks:
    """Return the particles that a session knows of in a micrograph."""
    positions = []
    for stack in seen.stacks.values():
        particles = stack.particles
        if "position_pixel" in particles:
            own = [one == name for one in stack.micrographs]
            positions.append(particles["position_pixel"][np.array(own, dtype=bool)])
    position = np.concatenate(positions) if positions else np.zeros((0, 2))
    return ShownPicks(position_pixel=position, labels={"figure_of_merit": np.zeros(len(position))})


def picks_of_job(project: Path, path: Path, name: str) -> ShownPicks:
    """Return what a picking job found in a micrograph.

    Parameters
    ----------
    path : the job's folder or list of coordinate files.
    """
    picks = relion.read_picks(path, [], project_root=project)
    own = np.array([Path(one).stem == name for one in picks["micrograph_name"].tolist()], dtype=bool)
    labels: dict[str, NDArray[np.float64]] = {}
    for column in picks.columns:
        values = _numbers(picks[column])
        if values is not None and column not in ("uid", "position_pixel"):
            labels[column] = values[own]
    return ShownPicks(position_pixel=picks.position_pixel[own], labels=labels)


def save_edited(
    project: Path,
    folder: Path,
    seen: Observation,
    edits: PickEdits,
    *,
    picks_path: Path | None = None,
    left_out: Collection[str] = (),
) -> Path:
    """Save edited picks as `halfmap.sessions.manual_picks.save_manual_picks` does, micrographs named without folder.

    Parameters
    ----------
    picks_path : of a picking job to begin with; the session's own particles where left out.
    left_out : micrographs that are not wanted, unless the edits accept them.

    Raises
    ------
    InputError
        There is no table of micrographs, or a micrograph or pick is not there.
    """
    table = micrographs_table(folder)
    if table is None:
        raise InputError(
            f"{folder} must hold a table of micrographs with their CTF (micrographs_ctf.star) for picks to be saved; "
            "got none; import the micrographs with halfmap import, and estimate their CTF."
        )
    micrographs = _named_from(project, table)
    names = {Path(name).stem: name for name in micrographs["micrograph_name"].tolist()}
    full = replace(
        edits,
        added=_renamed(edits.added, names),
        removed=_renamed(edits.removed, names),
        accepted=_renamed({name: False for name in left_out if name in names} | dict(edits.accepted), names),
        thresholds=_renamed(edits.thresholds, names),
    )
    if picks_path is None:
        parts = [
            Picks.of_micrograph(full_name, picks_of(seen, name).position_pixel, source="session")
            for name, full_name in names.items()
        ]
        return save_manual_picks(project, micrographs, full, picks=Picks.concatenate(parts) if parts else None)
    picks = relion.read_picks(picks_path, list(names.values()), project_root=project)
    own = [names.get(Path(name).stem, name) for name in picks["micrograph_name"].tolist()]
    named = picks.with_columns(micrograph_name=np.array(own, dtype=object))
    return save_manual_picks(project, micrographs, full, picks=named)


def _named_from(project: Path, table: Path) -> MicrographSet:
    """Read a table of micrographs, names made those by which jobs of the project find them."""
    micrographs = relion.read_micrographs(table)
    names = [str(name) for name in micrographs["micrograph_name"].tolist()]
    base = relion.resolve_paths(table, find_project(table.parent), names)
    real = [portable(project, base / name) for name in names]
    return micrographs.with_columns(micrograph_name=np.array(real, dtype=object))


def _names(table: Path) -> dict[str, str]:
    names = (str(name) for name in relion.read_micrographs(table)["micrograph_name"].tolist())
    return {Path(name).stem: name for name in names}


def _renamed(values: Mapping[str, Value], names: Mapping[str, str]) -> dict[str, Value]:
    return {names.get(name, name): value for name, value in values.items()}


def _numbers(values: Any) -> NDArray[np.float64] | None:
    try:
        numbers = np.asarray(values).astype(np.float64)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.ndim == 1 else None
