"""Rows of numbers in plain text, as coordinate files have them."""

from pathlib import Path

from halfmap.errors import FormatError


def read_rows(path: str | Path, *, at_least: int) -> list[list[float]]:
    """Read numbers separated by blanks or commas; a first line without numbers counts as a heading.

    Parameters
    ----------
    path : the file; what follows a ``#`` is passed over.
    at_least : numbers that every line must have.

    Raises
    ------
    FormatError
        The file cannot be read, or a line has too few numbers or something else; names the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise FormatError(path, expected="a readable coordinate file", found=f"'{error.strerror}'") from error
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        text = line.split("#")[0].replace(",", " ").split()
        if not text:
            continue
        try:
            row = [float(value) for value in text]
        except ValueError:
            row = []
        if len(row) < at_least:
            if not rows and number == 1:
                continue  # a heading
            raise FormatError(
                path,
                line=number,
                expected=f"at least {at_least} numbers",
                found=repr(line.strip()),
                remedy="mend the line",
            )
        rows.append(row)
    return rows
