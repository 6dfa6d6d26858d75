"""Topaz's coordinate tables: the micrograph's name, x, y and perhaps a score in each line."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.picks import Picks
from halfmap.errors import FormatError

_NAME, _X, _Y, _SCORE = "image_name", "x_coord", "y_coord", "score"


def is_header(line: str) -> bool:
    """Tell whether a line is the heading of a Topaz table."""
    return {_NAME, _X, _Y} <= set(_split(line, _separator(line)))


def read(path: str | Path) -> Picks:
    """Read the positions of a Topaz table.

    Parameters
    ----------
    path : text with a heading that names ``image_name``, ``x_coord``, ``y_coord`` and perhaps ``score``,
        columns separated by tabs, commas or blanks.

    Returns
    -------
    Picks
        Positions as they stand: in pixels of the images that Topaz saw. ``micrograph_name`` is Topaz's
        image name, which has no folder and no ending; the score is the figure of merit.

    Raises
    ------
    FormatError
        The heading or a line is not what it should be; names the line.

    References
    ----------
    Bepler et al. 2019, Nat. Methods 16, 1153; the files of ``topaz extract``.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise FormatError(path, expected="a readable Topaz table", found=f"'{error.strerror}'") from error
    heading = lines[0] if lines else ""
    if not is_header(heading):
        raise FormatError(
            path, line=1, expected=f"a heading with {_NAME}, {_X} and {_Y}", found=repr(heading), remedy="add it"
        )
    separator = _separator(heading)
    labels = _split(heading, separator)
    name, x, y = (labels.index(label) for label in (_NAME, _X, _Y))
    score = labels.index(_SCORE) if _SCORE in labels else None
    names: list[str] = []
    numbers: list[tuple[float, float, float]] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        values = _split(line, separator)
        try:
            if len(values) != len(labels):
                raise ValueError
            merit = 0.0 if score is None else float(values[score])
            numbers.append((float(values[x]), float(values[y]), merit))
        except ValueError:
            raise FormatError(
                path,
                line=number,
                expected=f"{len(labels)} values, numbers in {_X} and {_Y}",
                found=repr(line),
                remedy="mend the line",
            ) from None
        names.append(values[name])
    table = np.array(numbers).reshape(-1, 3)
    columns: dict[str, NDArray] = {
        "micrograph_name": np.array(names, dtype=object),
        "position_pixel": table[:, :2],
        "figure_of_merit": table[:, 2],
    }
    return Picks(columns=columns, source=path.name)


def _separator(line: str) -> str | None:
    return "\t" if "\t" in line else "," if "," in line else None


def _split(line: str, separator: str | None) -> list[str]:
    return [part.strip() for part in line.split(separator)]
