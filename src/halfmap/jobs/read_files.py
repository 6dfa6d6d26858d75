"""Files that a table names: a job that goes on must find them as they were when it began."""

import json
from collections.abc import Iterable
from pathlib import Path

from halfmap.errors import ProjectError
from halfmap.io.atomic import write_json
from halfmap.project.job import JobContext
from halfmap.project.record import hash_ends

NAME = "files_read.json"


def check_files_unchanged(context: JobContext, paths: Iterable[Path]) -> None:
    """Note files when a job begins; when it goes on, compare them with what was noted.

    Parameters
    ----------
    context : the job; the note lies with its states and is forgotten with them.
    paths : absolute, of files that exist.

    Raises
    ------
    ProjectError
        One has changed or is gone since the job began.
    """
    now = {context.relative(path): hash_ends(path) for path in dict.fromkeys(paths)}
    note = context.folder / "state" / NAME
    if not note.exists():
        note.parent.mkdir(exist_ok=True)
        write_json(note, now)
        return
    for name, then in json.loads(note.read_text(encoding="utf-8")).items():
        if now.get(name) != then:
            found = "another content" if name in now else "none that can be used"
            raise ProjectError(
                f"{context.resolve(name)} must be as it was when the job began; got {found}; restore the file, or "
                "begin a new job."
            )
