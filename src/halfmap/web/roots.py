"""`Roots`: the folders that browsers may reach into, each by a short name; nothing outside is reached."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from halfmap.errors import InputError
from halfmap.sessions.watching import recognise

MOST_FOLDERS = 500
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


class Roots:
    """Folders by short names.

    Parameters
    ----------
    folders : the folders; two of the same name are told apart by a number.

    Raises
    ------
    InputError
        One is no folder.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders: dict[str, Path] = {}
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"A root must be a folder; got {folder}; make it, or name another with --root.")
            plain = plain_name(folder.resolve().name)
            name, number = plain, 2
            while name in self.folders:
                name, number = f"{plain}-{number}", number + 1
            self.folders[name] = folder.resolve()

    def inside(self, root: str, relative: str) -> Path:
        """Return the path of something that exists below a root.

        Raises
        ------
        HTTPException
            404: there is nothing, or it lies outside, be it by ``..``, as an absolute path or through a link.
        """
        folder = self.folders.get(root)
        if folder is None:
            raise HTTPException(404, "There is no such root.")
        return confined(folder, relative)

    def listing(self, root: str, relative: str) -> dict[str, Any]:
        """Return the folders within a folder, and what was recognised in each."""
        folder = self.inside(root, relative)
        if not folder.is_dir():
            raise HTTPException(404, "There is no such folder.")
        here = folder.relative_to(self.folders[root]).as_posix()
        kept = [entry.name for entry, is_folder in _shown(folder, self.folders[root]) if is_folder]
        return {
            "root": root,
            "path": here,
            "kind": recognise(folder),
            "folders": [
                {
                    "name": name,
                    "path": (Path(here) / name).as_posix(),
                    "kind": recognise(folder / name),
                }
                for name in kept[:MOST_FOLDERS]
            ],
            "left_out": max(0, len(kept) - MOST_FOLDERS),
        }


def files_of(base: Path, relative: str, hidden: Path | None = None) -> dict[str, Any]:
    """Return the folders and files within a folder, for a form that asks for a path.

    Parameters
    ----------
    base : of which nothing outside is shown.
    relative : the folder, from there.
    hidden : a folder whose own files are not shown.

    Raises
    ------
    HTTPException
        404: there is no such folder, it lies outside, or cannot be read.
    """
    folder = confined(base, relative)
    if not folder.is_dir():
        raise HTTPException(404, "There is no such folder.")
    folders, files = [], []
    for entry, is_folder in _shown(folder, base):
        if is_folder:
            folders.append(entry.name)
        elif entry.is_file() and folder != hidden:
            with suppress(OSError):  # taken away meanwhile
                files.append({"name": entry.name, "bytes": entry.stat().st_size})
    return {
        "path": folder.relative_to(base).as_posix(),
        "folders": folders[:MOST_FOLDERS],
        "files": files[:MOST_FOLDERS],
        "left_out": max(0, len(folders) - MOST_FOLDERS) + max(0, len(files) - MOST_FOLDERS),
    }


def _shown(folder: Path, base: Path) -> list[tuple[Path, bool]]:
    """Return what is in a folder, by name, and whether it is one; not what is hidden, leads out or cannot be named."""
    try:
        entries = sorted(folder.iterdir(), key=lambda one: one.name)
    except OSError as error:
        raise HTTPException(404, f"The folder cannot be read: {error.strerror}.") from error
    found = []
    for entry in entries:
        with suppress(OSError, RuntimeError, UnicodeEncodeError):  # links in a circle; bytes that are no UTF-8
            entry.name.encode()
            if not entry.name.startswith(".") and entry.resolve().is_relative_to(base):
                found.append((entry, entry.is_dir()))
    return found


def confined(folder: Path, relative: str) -> Path:
    """Return the real path of something that exists in a folder.

    Raises
    ------
    HTTPException
        404: there is nothing, or it lies outside.
    """
    base = folder.resolve()
    try:
        found = (base / relative).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        found = None
    if found is None or relative.startswith("/") or not found.is_relative_to(base):
        raise HTTPException(404, "There is no such file or folder.")
    return found


def plain_name(text: str) -> str:
    """Return a name made of letters, digits, '.', '_' and '-' alone."""
    return _NOT_PLAIN.sub("_", text).strip("._-")[:60] or "folder"
