"""Optics groups in RELION's files: the table of 3.1 and later, and columns of each row before."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from halfmap.data.optics_groups import OpticsGroups
from halfmap.errors import FormatError
from halfmap.io.relion_columns import OPTICS_FIELDS, Decoded, decode, full_label
from halfmap.io.star import StarFile, StarTable, compact_text

_ROW_OPTICS = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnMtfFileName",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnDetectorPixelSize",
    "rlnMagnification",
)
_DEFAULT_MAGNIFICATION = 10000.0


def read_optics(star: StarFile, rows: StarTable) -> OpticsGroups | None:
    """Return the optics groups of a file with an optics table, checked against the rows; None without.

    Raises
    ------
    FormatError
        A group number stands twice, a row's group is missing, or the rows name groups without a table.
    """
    table = next((table for table in star if table.name == "optics" and table.columns), None)
    has_group = any(full_label(label) == "rlnOpticsGroup" for label in rows.labels)
    if table is None:
        if has_group:
            raise FormatError(
                star.path or "STAR file",
                expected="a block data_optics with the groups that the rows name in _rlnOpticsGroup",
                found=", ".join(f"data_{name}" for name in star.names),
                remedy="add the optics table, or remove the column _rlnOpticsGroup of a RELION 3.0 file",
            )
        return None
    decoded = decode(table, OPTICS_FIELDS)
    if "optics_group" not in decoded.columns:
        table.raw("rlnOpticsGroup")  # raises, naming file and label
    numbers = decoded.columns["optics_group"]
    for row, number in enumerate(numbers.tolist()):
        if number in numbers[:row]:
            raise table.error(
                row,
                expected="each optics group once",
                found=f"_rlnOpticsGroup {number} again",
                remedy="remove or renumber one of the rows",
            )
    if has_group:
        label = next(label for label in rows.labels if full_label(label) == "rlnOpticsGroup")
        used = rows.integers(label)
        missing = np.flatnonzero(~np.isin(used, numbers))
        if len(missing):
            raise rows.error(
                int(missing[0]),
                expected=f"an optics group of data_optics ({', '.join(map(str, numbers))}) in _rlnOpticsGroup",
                found=str(used[missing[0]]),
                remedy="add the group to data_optics or change the row",
            )
    elif len(numbers) != 1:
        rows.raw("rlnOpticsGroup")
    return OpticsGroups(columns=decoded.columns, remembered=decoded.remembered, label_order=decoded.label_order)


def optics_of_rows(rows: StarTable, decoded: Decoded, pixel_size_column: str) -> tuple[OpticsGroups, Decoded]:
    """Make optics groups from the columns that RELION before 3.1 gave each row.

    Rows with the same voltage, aberrations and pixel size form a group; groups are numbered in the order
    in which they appear. The pixel size is the detector's (µm) over the magnification.

    Returns
    -------
    groups, and the rows' columns without what moved into the groups and with ``optics_group``.
    """
    labels = [label for label in _ROW_OPTICS if label in decoded.columns]
    texts = [decoded.columns[label] for label in labels]
    seen: dict[tuple[str, ...], int] = {}
    numbers = np.empty(len(rows), dtype=np.int64)
    keys = zip(*texts, strict=True) if texts else ((),) * len(rows)
    for row, key in enumerate(keys):
        numbers[row] = seen.setdefault(key, len(seen) + 1)
    first = np.array([int(np.argmax(numbers == number)) for number in seen.values()], dtype=np.int64)
    kept = {label: text[first] for label, text in zip(labels, texts, strict=True)}
    spacing = _pixel_sizes(rows, first)
    for label in ("rlnDetectorPixelSize", "rlnMagnification"):
        kept.pop(label, None)
    lines = rows.lines[first] if rows.lines is not None else None
    table = StarTable(name="optics", columns={k: compact_text(v) for k, v in kept.items()}, path=rows.path, lines=lines)
    groups = decode(table, OPTICS_FIELDS)
    columns = dict(groups.columns)
    columns["optics_group"] = np.array(list(seen.values()), dtype=np.int64)
    if spacing is not None:
        columns[pixel_size_column] = spacing
    optics = OpticsGroups(columns=columns, remembered=groups.remembered)
    remaining = {label: values for label, values in decoded.columns.items() if label not in labels}
    return optics, replace(decoded, columns={**remaining, "optics_group": numbers})


def _pixel_sizes(rows: StarTable, first: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return each group's pixel size in Å, or None where the file does not say."""
    labels = {full_label(label): label for label in rows.labels}
    if "rlnDetectorPixelSize" in labels:
        detector = rows.numbers(labels["rlnDetectorPixelSize"])[first]
        magnification = np.full(len(first), _DEFAULT_MAGNIFICATION)
        if "rlnMagnification" in labels:
            magnification = rows.numbers(labels["rlnMagnification"])[first]
        wrong = np.flatnonzero(~((detector > 0) & (magnification > 0)))
        if len(wrong):
            row = int(first[wrong[0]])
            raise rows.error(
                row,
                expected="a positive _rlnDetectorPixelSize and _rlnMagnification",
                found=f"{detector[wrong[0]]:g} and {magnification[wrong[0]]:g}",
                remedy="mend the values; the pixel size in Å is 10000 times their quotient",
            )
        return detector * 1e4 / magnification
    for label in ("rlnPixelSize", "rlnImagePixelSize"):
        if label in labels:
            sizes = rows.numbers(labels[label])
            return sizes[first] if len(np.unique(sizes)) == 1 else None
    return None
