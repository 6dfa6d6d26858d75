"""Defects of a detector: maps and lists of pixels that tell nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import FormatError, InconsistentDataError

Rectangle = tuple[int, int, int, int]
"""x, y, width and height in pixels."""


def read_defect_list(path: str | Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a list of defects, SerialEM's or MotionCor2's.

    Parameters
    ----------
    path : text; either lines of SerialEM (``BadColumns``, ``BadRows``, ``PartialBadColumn`` x width first last,
        ``PartialBadRow`` y height first last, ``BadPixels`` x y …, ``CameraSizeX``, ``CameraSizeY``), or lines of four
        numbers, x y width height.
    shape : (y, x) of the frames; whole multiples of SerialEM's camera where they are sampled finer.

    Returns
    -------
    Shape ``shape``: which pixels are bad.

    Raises
    ------
    FormatError
        A line is none of these.
    InconsistentDataError
        A defect lies outside the image, or the camera has other sides.

    Notes
    -----
    Coordinates count pixels as the movie stores them, from 0, turned by nothing.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise FormatError(path, expected="a readable list of defects", found=f"'{error.strerror}'") from error
    rows = [(number, line.split("#")[0].split()) for number, line in enumerate(lines, start=1)]
    camera = {words[0]: int(words[1]) for _, words in rows if len(words) == 2 and words[0].startswith("CameraSize")}
    sensor, factor = _sensor(path, camera, shape)
    is_bad = np.zeros(shape, dtype=bool)
    for number, words in rows:
        if not words:
            continue
        try:
            rectangles = list(_rectangles(words, sensor))
        except (ValueError, IndexError) as error:
            raise FormatError(
                path,
                line=number,
                expected="x y width height, or a line of SerialEM's defects",
                found=repr(" ".join(words)[:60]),
                remedy="mend the line",
            ) from error
        for x, y, width, height in rectangles:
            if x < 0 or y < 0 or width < 1 or height < 1 or x + width > sensor[1] or y + height > sensor[0]:
                raise InconsistentDataError(
                    f"Defects of {path} must lie in frames of {sensor[1]} × {sensor[0]} pixels; got one of "
                    f"{width} × {height} at ({x}, {y}), line {number}; check that the list is of this detector."
                )
            is_bad[y * factor : (y + height) * factor, x * factor : (x + width) * factor] = True
    return is_bad


def _sensor(path: Path, camera: dict[str, int], shape: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """Return the sides (y, x) that coordinates refer to, and how many times finer frames are sampled."""
    sides = (camera.get("CameraSizeY", shape[0]), camera.get("CameraSizeX", shape[1]))
    factor = shape[0] // max(sides[0], 1)
    if factor < 1 or (sides[0] * factor, sides[1] * factor) != shape:
        raise InconsistentDataError(
            f"The camera of {path} must be as large as the frames, or a whole number of times smaller; got "
            f"{sides[1]} × {sides[0]} for frames of {shape[1]} × {shape[0]}; check that the list is of this detector."
        )
    return sides, factor


def _rectangles(words: list[str], sensor: tuple[int, int]) -> Iterator[Rectangle]:
    kind = words[0]
    if kind in _READERS:
        yield from _READERS[kind]([int(word) for word in words[1:]], sensor)
    elif kind in _WITHOUT_PIXELS:
        return
    else:
        x, y, width, height = map(int, words)
        yield x, y, width, height


def _columns(numbers: list[int], sensor: tuple[int, int]) -> Iterator[Rectangle]:
    yield from ((x, 0, 1, sensor[0]) for x in numbers)


def _rows(numbers: list[int], sensor: tuple[int, int]) -> Iterator[Rectangle]:
    yield from ((0, y, sensor[1], 1) for y in numbers)


def _column_part(numbers: list[int], sensor: tuple[int, int]) -> Iterator[Rectangle]:
    x, width, first, last = numbers
    yield x, first, width, last - first + 1


def _row_part(numbers: list[int], sensor: tuple[int, int]) -> Iterator[Rectangle]:
    y, height, first, last = numbers
    yield first, y, last - first + 1, height


def _pixels(numbers: list[int], sensor: tuple[int, int]) -> Iterator[Rectangle]:
    yield from ((x, y, 1, 1) for x, y in zip(numbers[::2], numbers[1::2], strict=True))


_READERS: dict[str, Callable[[list[int], tuple[int, int]], Iterator[Rectangle]]] = {
    "BadColumns": _columns,
    "BadRows": _rows,
    "PartialBadColumn": _column_part,
    "PartialBadRow": _row_part,
    "BadPixels": _pixels,
}
_WITHOUT_PIXELS = frozenset(
    {
        "CameraSizeX",
        "CameraSizeY",
        "FalconType",
        "K2Type",
        "NumToAvgSuperRes",
        "RotationAndFlip",
        "UsableArea",
        "WasScaled",
    }
)
