"""Where the files lie that a STAR file names."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from halfmap.errors import FormatError

_LOOKED_AT = 100
_JOB_FOLDER = re.compile(r"^[^/]+/job\d+/")


def path_of_image(image_name: str) -> str:
    """Return the file of an image name ``000001@stack.mrcs``, or a plain path as it is."""
    return image_name.rpartition("@")[2]


def path_in_job(micrograph_name: str, suffix: str) -> Path:
    """Return where a job puts what belongs to a micrograph, relative to its folder.

    Parameters
    ----------
    micrograph_name : as in the micrograph table.
    suffix : what replaces the ending: ``_autopick.star``, ``.mrcs``.

    Notes
    -----
    RELION's rule: the micrograph's path without ``JobType/jobNNN/``.
    """
    after_job = _JOB_FOLDER.sub("", os.path.normpath(micrograph_name))
    inner = Path(*(part for part in Path(after_job).parts if part not in ("/", "..")))
    return inner.with_name(inner.stem + suffix)


def resolve_paths(star_path: str | Path, project_root: str | Path, names: Iterable[str]) -> Path:
    """Find the folder to which the paths in a STAR file are relative.

    Tried are the project folder, the file's own folder, then its parents up to the project (up to the
    file system's root for a file outside it). One folder serves the whole file: the first in which all
    named files exist, or, where some are missing everywhere, the first with the most.

    Parameters
    ----------
    star_path : the STAR file.
    project_root : the project folder.
    names : paths or image names in the file; at most 100 of them, evenly spaced, are looked for.

    Returns
    -------
    Path
        The folder, absolute.

    Raises
    ------
    FormatError
        No named file exists below any of the folders; lists all that were tried.
    """
    star_path, project_root = Path(star_path).absolute(), Path(project_root).absolute()
    wanted = list(dict.fromkeys(path_of_image(name) for name in names))
    step = max(1, -(-len(wanted) // _LOOKED_AT))
    sample = wanted[::step]
    own = star_path.parent
    parents = [own, *own.parents]
    if project_root in parents:
        parents = parents[: parents.index(project_root)]
    candidates = list(dict.fromkeys([project_root, *parents]))
    if not sample:
        return project_root
    best, most = project_root, 0
    for folder in candidates:
        found = sum((folder / name).exists() for name in sample)
        if found == len(sample):
            return folder
        if found > most:
            best, most = folder, found
    if most:
        return best
    raise FormatError(
        star_path,
        expected=f"paths of files that exist, such as {sample[0]}",
        found=f"none of them below {', '.join(map(str, candidates))}",
        remedy="run in the project folder, or move the files so that the paths fit",
    )
