"""EMAN's ``.box`` files: the corner and the sides of a window around each particle."""

from pathlib import Path

import numpy as np

from halfmap.data.picks import Picks
from halfmap.errors import FormatError
from halfmap.io.text_rows import read_rows


def is_boxes(rows: list[list[float]]) -> bool:
    """Tell whether rows of numbers are EMAN's boxes: corner x and y, then two equal positive sides."""
    return bool(rows) and all(len(row) >= 4 and row[2] == row[3] and row[2] > 0 for row in rows)


def read_boxes(path: str | Path, micrograph_name: str) -> Picks:
    """Read the positions of one box file.

    Parameters
    ----------
    path : each line x and y of the window's corner at the smallest coordinates, its width and height, in
        pixels of the micrograph, perhaps more numbers.
    micrograph_name : the micrograph they are in.

    Returns
    -------
    Picks
        The windows' centres: corner + side / 2, as RELION takes them.

    Raises
    ------
    FormatError
        A line has fewer than four numbers, or a side is not positive.
    """
    rows = read_rows(path, at_least=4)
    for row in rows:
        if not (row[2] > 0 and row[3] > 0):
            raise FormatError(
                path,
                expected="positive sides in the third and fourth column",
                found=f"{row[2]:g} and {row[3]:g}",
                remedy="check that it is EMAN's file: corner x, corner y, width, height",
            )
    positions = np.array([(x + width / 2, y + height / 2) for x, y, width, height, *_ in rows])
    return Picks.of_micrograph(micrograph_name, positions, source=Path(path).name)
