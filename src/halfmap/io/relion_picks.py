"""Coordinate files: RELION's STAR, EMAN's box files and plain text, and RELION's list of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.picks import Picks
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.io import eman, star
from halfmap.io.relion_columns import PICK_FIELDS, decode, encode, number_texts
from halfmap.io.relion_paths import path_in_job, resolve_paths
from halfmap.io.text_rows import read_rows

STEM_ENDINGS = ("_autopick", "_manualpick", "_topaz", "_extract", "_extractpick", "_pick")
"""What the names of coordinate files have after the micrograph's stem."""

_SUFFIXES = (".star", ".box", ".txt", ".coords", ".xy")


def read_coordinates(path: str | Path, micrograph_name: str | None = None) -> Picks:
    """Read the positions of one coordinate file.

    Parameters
    ----------
    path : RELION's STAR, EMAN's ``.box`` (corner x, y and box size), or text with x, y and perhaps z in
        each line.
    micrograph_name : the micrograph they are in; not needed for a STAR file with ``_rlnMicrographName``.

    Returns
    -------
    Picks
        Other columns of a STAR file are kept as text, a z as ``rlnCoordinateZ``.

    Raises
    ------
    FormatError
        The file does not hold coordinates; names the line.
    InputError
        Nothing says which micrograph they are in.
    """
    path = Path(path)
    if path.suffix.lower() == ".star":
        return _read_star_coordinates(path, micrograph_name)
    if micrograph_name is None:
        raise InputError(f"The micrograph of {path} must be known; got a file that does not name it; give its name.")
    if path.suffix.lower() == ".box":
        return eman.read_boxes(path, micrograph_name)
    rows = read_rows(path, at_least=2)
    columns: dict[str, NDArray] = {}
    positions = np.array([row[:2] for row in rows])
    if rows and all(len(row) == 3 for row in rows):
        columns["rlnCoordinateZ"] = np.array(number_texts("z", np.array([row[2] for row in rows])), dtype=object)
    return Picks.of_micrograph(micrograph_name, positions, source=path.name, **columns)


def write_coordinates(path: str | Path, picks: Picks) -> None:
    """Write positions as RELION's coordinate file: x, y, figure of merit, class, psi, uid, further columns."""
    columns = encode(picks, PICK_FIELDS, skip=("micrograph_name",))
    star.write(path, [star.with_version(star.StarTable(name="", columns=columns))])


def read_autopick(path: str | Path, project_root: str | Path) -> Picks:
    """Read RELION's list of coordinate files (``autopick.star``, table ``coordinate_files``).

    Parameters
    ----------
    path : the list.
    project_root : the project folder, from which its paths are tried first.

    Raises
    ------
    FormatError
        The list or a coordinate file is not what it should be, or a file is missing.
    """
    path = Path(path)
    file = star.read(path)
    table = file["coordinate_files"]
    micrographs, names = table.text("rlnMicrographName"), table.text("rlnMicrographCoordinates")
    if not len(names):
        return _no_picks(path.name, ())
    root = resolve_paths(path, project_root, names)
    parts = []
    for row, (micrograph, name) in enumerate(zip(micrographs, names, strict=True)):
        if not (root / name).exists():
            raise table.error(
                row,
                expected="a coordinate file that exists",
                found=str(root / name),
                remedy="restore it or remove the row",
            )
        parts.append(read_coordinates(root / name, micrograph))
    return _joined(parts, path.name, micrographs.tolist())


def write_autopick(folder: str | Path, picks: Picks, *, project_root: str | Path) -> Path:
    """Write picks as RELION's picking job does.

    One ``<micrograph>_autopick.star`` for each micrograph searched, also where nothing was found, in
    folders that repeat the micrograph's after ``JobType/jobNNN/``; ``autopick.star`` with the list of
    them; ``summary.star`` with their number and mean figure of merit.

    Parameters
    ----------
    folder : the job folder.
    picks : of all micrographs.
    project_root : the project folder; paths are written relative to it.

    Returns
    -------
    Path
        Of ``autopick.star``.

    Raises
    ------
    InconsistentDataError
        Two micrographs would get the same coordinate file.
    """
    folder, project_root = Path(folder).absolute(), Path(project_root).absolute()
    rows_of = picks.by_micrograph()
    owner: dict[Path, str] = {}
    names, merits, counts = [], [], []
    for micrograph, rows in rows_of.items():
        target = folder / coordinate_path(micrograph)
        if target in owner:
            raise InconsistentDataError(
                f"Micrographs must differ in their path after JobType/jobNNN/ and without ending; got "
                f"{owner[target]} and {micrograph}; rename one of them."
            )
        owner[target] = micrograph
        part = picks.take(rows)
        write_coordinates(target, part)
        inside = target.is_relative_to(project_root)
        names.append(str(target.relative_to(project_root) if inside else target))
        merits.append(float(part.figure_of_merit.mean()) if len(rows) else 0.0)
        counts.append(str(len(rows)))
    micrographs = list(rows_of)
    summary = {
        "rlnMicrographName": star.compact_text(micrographs),
        "rlnGroupNrParticles": star.compact_text(counts),
        "rlnAutopickFigureOfMerit": star.compact_text(number_texts("figure_of_merit", np.array(merits))),
    }
    star.write(folder / "summary.star", [star.with_version(star.StarTable(name="", columns=summary))])
    files = {
        "rlnMicrographName": star.compact_text(micrographs),
        "rlnMicrographCoordinates": star.compact_text(names),
    }
    path = folder / "autopick.star"
    star.write(path, [star.with_version(star.StarTable(name="coordinate_files", columns=files))])
    return path


def coordinate_path(micrograph_name: str) -> Path:
    """Return where RELION puts a micrograph's picks inside the job folder."""
    return path_in_job(micrograph_name, "_autopick.star")


def read_picks(path: str | Path, micrograph_names: Sequence[str], *, project_root: str | Path) -> Picks:
    """Read picks in whatever form they come.

    Parameters
    ----------
    path : ``autopick.star`` or the folder of the job that wrote it, a STAR file with ``_rlnMicrographName`` and
        coordinates (a particle table too), or a folder of coordinate files, one a micrograph with its name, perhaps
        with an ending such as ``_autopick``.
    micrograph_names : of the micrograph table.
    project_root : the project folder.

    Returns
    -------
    Picks
        Those of files that fit no micrograph carry the file's stem as the micrograph's name, so that who
        joins them can count and name them.

    Raises
    ------
    FormatError
        A file is not what it should be, or a folder holds no coordinate file.
    InconsistentDataError
        A file fits several micrographs, or several files fit one.
    """
    path = Path(path)
    if (path / "autopick.star").exists():
        path = path / "autopick.star"
    if not path.is_dir():
        is_list = "coordinate_files" in star.read(path)
        return read_autopick(path, project_root) if is_list else read_coordinates(path)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    files = [file for file in files if file.name not in ("autopick.star", "summary.star", "job.star")]
    if not files:
        raise FormatError(path, expected=f"coordinate files ({', '.join(_SUFFIXES)})", found="none")
    of_stem: dict[str, list[str]] = {}
    for name in micrograph_names:
        of_stem.setdefault(Path(name).stem, []).append(name)
    parts = []
    file_of: dict[str, Path] = {}
    for file in files:
        stems = [file.stem, *(file.stem.removesuffix(end) for end in STEM_ENDINGS if file.stem.endswith(end))]
        stem = next((stem for stem in stems if stem in of_stem), stems[-1])
        fitting = of_stem.get(stem, [stem])
        if len(fitting) > 1:
            folders = file.relative_to(path).parent.parts
            closer = [name for name in fitting if folders and Path(name).parent.parts[-len(folders) :] == folders]
            if len(closer) != 1:
                raise InconsistentDataError(
                    f"Coordinate file {file} must fit one micrograph; got {' and '.join(fitting[:3])}; "
                    "name the files in an autopick.star instead."
                )
            fitting = closer
        if fitting[0] in file_of:
            raise InconsistentDataError(
                f"Each micrograph must have one coordinate file below {path}; got {file_of[fitting[0]]} and {file} for "
                f"{fitting[0]}; move one of them away."
            )
        file_of[fitting[0]] = file
        parts.append(read_coordinates(file, fitting[0]))
    return _joined(parts, path.name, [])


def _read_star_coordinates(path: Path, micrograph_name: str | None) -> Picks:
    file = star.read(path)
    table = next((table for table in file if "rlnCoordinateX" in table or "CoordinateX" in table), None)
    if table is None:
        filled = [part for part in file if part.columns and part.name != "optics"]
        if filled:
            filled[0].raw("rlnCoordinateX")  # raises, naming file and label
        if micrograph_name is None:
            raise InputError(
                f"The micrograph of {path} must be known; got a file that does not name it; give its name."
            )
        return _no_picks(path.name, (micrograph_name,))
    decoded = decode(table, PICK_FIELDS)
    columns = decoded.columns
    if "position_pixel" not in columns:
        table.raw("rlnCoordinateY")
    own_names = columns.pop("rlnMicrographName", None)
    if micrograph_name is not None:
        own_names = np.full(len(table), micrograph_name, dtype=object)
    if own_names is None:
        raise InputError(
            f"The micrograph of {path} must be known; got no column _rlnMicrographName; add it or give its name."
        )
    columns["micrograph_name"] = own_names
    return Picks(
        columns=columns,
        remembered=decoded.remembered,
        label_order=decoded.label_order,
        source=path.name,
        micrographs=() if micrograph_name is None else (micrograph_name,),
    )


def _no_picks(source: str, micrographs: tuple[str, ...]) -> Picks:
    return Picks(
        columns={"micrograph_name": np.zeros(0, dtype=object), "position_pixel": np.zeros((0, 2))},
        source=source,
        micrographs=micrographs,
    )


def _joined(parts: Sequence[Picks], source: str, micrographs: Sequence[str]) -> Picks:
    """Join picks of many files; columns that not all have are left out."""
    filled = [part for part in parts if len(part)] or list(parts[:1])
    shared = set(filled[0].columns).intersection(*(part.columns for part in filled))
    trimmed = [part.without_columns(*(set(part.columns) - shared)) for part in filled]
    joined = Picks.concatenate(trimmed)
    searched = dict.fromkeys((*micrographs, *(name for part in parts for name in part.micrographs)))
    return Picks(
        columns=joined.columns,
        remembered=joined.remembered,
        label_order=joined.label_order,
        source=source,
        micrographs=tuple(searched),
    )
