"""Writing so that a reader never meets half a file."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from halfmap.errors import ProjectError

_PARTIAL = ".partial"


@contextmanager
def replacing(path: str | Path, *, synchronise: bool = True) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place when the block ends well.

    The folder is made if it is missing, and the temporary file removed when the block raises, so a kill at any
    instant leaves the last complete file.

    Parameters
    ----------
    path : the file.
    synchronise : bring the file to the disk before the rename, so that it outlives a power failure too. Without,
        large files are written several times faster; who goes on from them must look whether they are whole.

    Raises
    ------
    ProjectError
        The folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if synchronise:
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.filename is not None and Path(error.filename) not in (temporary, path, *path.parents):
            raise  # another file's trouble
        raise ProjectError(
            f"{path} must be writable; got '{error.strerror or error}'; free space on the disk, mend the "
            "folder's permissions, or choose another folder with --out."
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_partial(folder: Path) -> None:
    """Remove the temporary files that killed writers left below a folder; what cannot be removed stays."""
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and name.endswith(_PARTIAL):
                with suppress(OSError):
                    (Path(place) / name).unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, indented, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
