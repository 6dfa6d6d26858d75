"""Topaz's text tables: coordinates, lists of images, and the course of a training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.picks import Picks
from halfmap.errors import FormatError
from halfmap.io.atomic import write_text

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


def write_coordinates(path: str | Path, positions: Mapping[str, NDArray[np.float64]]) -> None:
    """Write positions as Topaz's training takes them: in whole pixels of the images that it sees.

    Parameters
    ----------
    path : of the file.
    positions : by Topaz's image name, shape (n, 2), (x, y).
    """
    rows = [
        f"{name}\t{x:d}\t{y:d}"
        for name, places in positions.items()
        for x, y in np.rint(places).astype(np.int64).reshape(-1, 2)
    ]
    write_text(path, "\n".join(["\t".join((_NAME, _X, _Y)), *rows]) + "\n")


def write_images(path: str | Path, files: Mapping[str, Path]) -> None:
    """Write Topaz's list of images: name and file of each."""
    rows = [f"{name}\t{file}" for name, file in files.items()]
    write_text(path, "\n".join([f"{_NAME}\tpath", *rows]) + "\n")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingCourse:
    """How a training of Topaz went.

    Parameters
    ----------
    loss : of the training, averaged over each epoch, float64, shape (k,).
    test_loss, test_precision_recall : loss and area under the precision-recall curve of the held-out images after each
        epoch, float64, shape (k,); NaN where there are none.
    epochs : their numbers, int64, shape (k,).
    """

    epochs: NDArray[np.int64]
    loss: NDArray[np.float64]
    test_loss: NDArray[np.float64]
    test_precision_recall: NDArray[np.float64]


def read_training(path: str | Path) -> TrainingCourse:
    """Read the table that ``topaz train --output`` writes; columns that are not there are NaN.

    Raises
    ------
    FormatError
        The file is missing or has no column ``epoch``.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    labels = _split(lines[0], _separator(lines[0])) if lines else []
    if "epoch" not in labels:
        raise FormatError(path, line=1, expected="a heading with epoch", found=repr(lines[0]) if lines else "no line")
    rows = [dict(zip(labels, _split(line, _separator(lines[0])), strict=False)) for line in lines[1:] if line.strip()]
    epochs = np.unique(np.array([int(row["epoch"]) for row in rows], dtype=np.int64))

    def mean(label: str, split: str) -> NDArray[np.float64]:
        found = [
            [_number(row.get(label)) for row in rows if int(row["epoch"]) == e and row.get("split") == split]
            for e in epochs
        ]
        return np.array([np.mean(values) if values else np.nan for values in found], dtype=np.float64)

    return TrainingCourse(
        epochs=epochs,
        loss=mean("loss", "train"),
        test_loss=mean("loss", "test"),
        test_precision_recall=mean("auprc", "test"),
    )


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else np.nan
    except ValueError:  # "-" stands for what was not measured
        return np.nan


def _separator(line: str) -> str | None:
    return "\t" if "\t" in line else "," if "," in line else None


def _split(line: str, separator: str | None) -> list[str]:
    return [part.strip() for part in line.split(separator)]
