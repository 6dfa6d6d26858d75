"""Files that a user names one by one or by their folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from halfmap.errors import InputError


def files_of(given: Iterable[Path], suffixes: Sequence[str], kind: str) -> list[Path]:
    """Return given files as they are, and of a given folder those in it that end so, by name.

    Parameters
    ----------
    suffixes : in small letters, with their dot.
    kind : what they are, in the plural.

    Raises
    ------
    InputError
        A folder holds none.
    """
    found: list[Path] = []
    for one in given:
        inside = sorted(path for path in one.iterdir() if path.suffix.lower() in suffixes) if one.is_dir() else [one]
        if not inside:
            raise InputError(
                f"A folder of {kind} must hold some ({', '.join(suffixes)}); got none in {one}; choose another."
            )
        found += inside
    return found
