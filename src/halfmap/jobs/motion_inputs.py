"""Movies as ``halfmap motion`` takes them: located, looked into, with their optics."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfmap.data.optics_groups import OpticsGroups
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.io import star
from halfmap.io.detector import Detector
from halfmap.io.eer import EerGrouping, open_eer
from halfmap.io.frames import EER_SUFFIXES, MOVIE_SUFFIXES, MRC_SUFFIXES, MovieSource, open_movie
from halfmap.io.mrc import read_header
from halfmap.io.relion_optics import read_optics
from halfmap.io.relion_paths import resolve_paths
from halfmap.jobs.given_files import files_of
from halfmap.jobs.motion import MotionJobParams
from halfmap.jobs.per_micrograph import Rejected, check_rejections
from halfmap.project.job import JobContext

_MOVIE = "rlnMicrographMovieName"
_DEFAULTS = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedMovies:
    """Movies that can be worked on.

    Parameters
    ----------
    names : as they are written into tables.
    sources : of their frames.
    optics_group : int64, shape (n,).
    optics : with pixel size of the frames, voltage, aberration and amplitude contrast.
    rejected : movies set aside, and why.
    """

    names: tuple[str, ...]
    sources: tuple[MovieSource, ...]
    optics_group: np.ndarray
    optics: OpticsGroups
    rejected: tuple[Rejected, ...]


def open_movies(context: JobContext, params: MotionJobParams) -> OpenedMovies:
    """Find all movies and look at each: whole, frames alike, gain and defects that fit.

    Raises
    ------
    InputError, InconsistentDataError, FormatError
        The list is at fault, or something that all movies share.
    JobFailed
        More than a tenth of the movies are bad.
    """
    names, paths, groups, optics = _listed(context, params)
    optics = _completed(optics, params, paths[0])
    sizes = optics.values("original_pixel_size_angstrom", groups)
    detector = Detector(
        gain_path=params.gain,
        gain_flip_x=params.gain_flip_x,
        gain_flip_y=params.gain_flip_y,
        gain_transpose=params.gain_transpose,
        defects_path=params.defects,
    )
    sources: list[MovieSource] = []
    rows: list[int] = []
    rejected: list[Rejected] = []
    for row, path in enumerate(paths):
        try:
            sources.append(
                open_movie(path, pixel_size_angstrom=float(sizes[row]), detector=detector, eer=_grouping(path, params))
            )
            rows.append(row)
        except (FormatError, InputError, InconsistentDataError) as error:
            rejected.append(Rejected(name=names[row], reason=str(error)))
            context.log(f"set aside {names[row]}: {error}")
            check_rejections(rejected, len(paths), "movies")
    return OpenedMovies(
        names=tuple(names[row] for row in rows),
        sources=tuple(sources),
        optics_group=groups[rows],
        optics=optics,
        rejected=tuple(rejected),
    )


def _listed(context: JobContext, params: MotionJobParams) -> tuple[list[str], list[Path], np.ndarray, OpticsGroups]:
    tables = [path for path in params.movies if path.suffix == ".star"]
    if not tables:
        paths = files_of(params.movies, MOVIE_SUFFIXES, "movies")
        names = [context.relative(path) for path in paths]
        return (
            names,
            paths,
            np.ones(len(names), dtype=np.int64),
            OpticsGroups(columns={"optics_group": np.array([1])}),
        )
    if len(params.movies) > 1:
        raise InputError(
            f"--movies must be one STAR file, or movies alone; got {len(params.movies)} files with {tables[0].name} "
            "among them; give one of these."
        )
    file = star.read(tables[0])
    rows = next((table for table in file if _MOVIE in table), None)
    if rows is None or not len(rows):
        raise FormatError(
            tables[0],
            expected=f"movies in the column _{_MOVIE}",
            found="none",
            remedy="choose the movies.star of RELION's import",
        )
    names = [str(name) for name in rows.text(_MOVIE)]
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise FormatError(tables[0], expected="each movie once", found=f"{repeated[0]} again", remedy="remove a row")
    root = resolve_paths(tables[0], context.project, names)
    found = read_optics(file, rows)
    if found is None:
        one = np.ones(len(names), dtype=np.int64)
        return names, [root / name for name in names], one, OpticsGroups(columns={"optics_group": np.array([1])})
    return names, [root / name for name in names], rows.integers("rlnOpticsGroup"), found


def _completed(optics: OpticsGroups, params: MotionJobParams, first: Path) -> OpticsGroups:
    size = params.pixel_size_angstrom
    if size is None and "original_pixel_size_angstrom" not in optics:
        size = read_header(first).pixel_size_angstrom if first.suffix.lower() in MRC_SUFFIXES else None
        if size is None:
            raise InconsistentDataError(
                f"The pixel size of the movies must be known; got none in the table or {first.name}; give --pixel-size."
            )
    values: dict[str, np.ndarray] = {}
    if size is not None:
        values["original_pixel_size_angstrom"] = np.full(len(optics), size)
    for name, default in _DEFAULTS.items():
        given = getattr(params, name)
        if given is not None or name not in optics:
            values[name] = np.full(len(optics), default if given is None else given)
    return optics.with_columns(**values)


def _grouping(path: Path, params: MotionJobParams) -> EerGrouping | None:
    if path.suffix.lower() not in EER_SUFFIXES:
        return None
    if params.eer_fractions is None:
        return EerGrouping(frames_per_fraction=params.eer_frames_per_fraction, upsampling=params.eer_upsampling)
    raw = open_eer(path, EerGrouping(frames_per_fraction=1)).n_raw_frames
    return EerGrouping.into_fractions(raw, params.eer_fractions, params.eer_upsampling)
