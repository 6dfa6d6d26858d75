"""A folder whose files belong together and keep their earlier versions: of a species, or of a data source.

The files of a version lie in ``versions/<version>/``, as M has them. A version is made whole beside the others before
a file in use is touched, and what a killed process left undone is undone or finished by the next one: so the folder is
always of one version.
"""

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from halfmap.errors import InputError, ProjectError
from halfmap.io.atomic import remove_partial, replacing, write_json
from halfmap.project import lock

VERSIONS = "versions"
_COMMITTING = ".committing"  # names the version that the folder is being brought to
_STAGING = ".staging-"


class FilesElsewhere(Protocol):
    """Files in other folders that a version names, told by their keys: see `population_tilt_averages`."""

    def differences(self, version: Path, *, reads_all: bool) -> list[str]:
        """Return which of those that the version in a folder names are not in use."""

    def check(self, version: Path, keys: Iterable[str]) -> None:
        """Raise where they are lost."""

    def use(self, version: Path, keys: Iterable[str]) -> None:
        """Bring them into use; doing it twice does no harm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VersionedFolder:
    """The files of a species or a source.

    Parameters
    ----------
    main : ``.species`` or ``.source`` file; says which version the folder is of.
    list_files : takes a main file and a folder, and returns the names of the files of that version in the folder.
    version_of : reads the version that a main file says it is of, and the one before.
    holds_nothing_else : whether files in use that a version lacks are removed when it is checked out.
    elsewhere : files in other folders that go with a version.
    """

    main: Path
    list_files: Callable[[Path, Path], list[str]]
    version_of: Callable[[Path], tuple[str, str]]
    holds_nothing_else: bool
    elsewhere: FilesElsewhere | None = None

    @property
    def folder(self) -> Path:
        """Where the files in use lie."""
        return self.main.parent

    @property
    def live_version(self) -> str:
        """The version that is in use."""
        return self.version_of(self.main)[0]

    def version_folder(self, version: str) -> Path:
        """Return where the files of a version are kept."""
        return self.folder / VERSIONS / version

    def has_version(self, version: str) -> bool:
        """Whether the files of a version are kept."""
        return bool(version) and (self.version_folder(version) / self.main.name).is_file()

    def history(self) -> list[tuple[str, str, datetime]]:
        """Return the versions that are kept, oldest first: version, the one before it, when it was made."""
        found = []
        for main in (self.folder / VERSIONS).glob(f"[!.]*/{self.main.name}"):
            made = datetime.fromtimestamp(main.stat().st_mtime)
            found.append((main.parent.name, self.version_of(main)[1], made))
        return sorted(found, key=lambda entry: entry[2])

    def changed_files(self) -> list[str]:
        """Return the names of files in use that differ from the version they say they are of."""
        version = self.live_version
        if not self.has_version(version):
            return []
        return self._differences(version)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty folder in which the files of the next version are made; it is gone afterwards."""
        folder = self.folder / VERSIONS / f"{_STAGING}{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, staged: Path, version: str) -> None:
        """Make a version of what was staged and of the files in use that were not, and bring it into use.

        Parameters
        ----------
        staged : of `staging`; its main file says that it is of this version.
        version : its name.
        """
        for name in self.list_files(staged / self.main.name, self.folder):
            if not (staged / name).exists():
                _copy(self.folder / name, staged / name)
        for path in staged.iterdir():
            _synchronise(path)
        write_json(self.folder / VERSIONS / _COMMITTING, {"version": version})
        if not self.has_version(version):
            shutil.rmtree(self.version_folder(version), ignore_errors=True)
            os.replace(staged, self.version_folder(version))
            _synchronise(self.folder / VERSIONS)
        self._bring_into_use(version)

    def checkout(self, version: str) -> list[str]:
        """Bring a version into use again, bit for bit.

        Returns
        -------
        Names of the files that changed.

        Raises
        ------
        InputError
            There is no such version, or several whose names begin so.
        ProjectError
            Files in other folders that it names are lost.
        """
        version = self.full_version(version)
        kept, changed, away = self.version_folder(version), self._differences(version), list[str]()
        if self.elsewhere is not None:
            away = self.elsewhere.differences(kept, reads_all=True)
            self.elsewhere.check(kept, away)
            self.elsewhere.use(kept, away)
        if changed:
            write_json(self.folder / VERSIONS / _COMMITTING, {"version": version})
            self._bring_into_use(version)
        return [*changed, *away]

    def full_version(self, beginning: str) -> str:
        """Return the one version whose name begins so.

        Raises
        ------
        InputError
            There is none, or several.
        """
        known = [version for version, _, _ in self.history()]
        found = [version for version in known if version.startswith(beginning)]
        if beginning in known:
            return beginning
        if len(found) != 1 or not beginning:
            raise InputError(
                f"A version of {self.main.name} must be one of {', '.join(known) or 'none yet'}; got {beginning!r}"
                f"{', the beginning of several' if len(found) > 1 else ''}; see `halfmap population versions`."
            )
        return found[0]

    def heal(self) -> str | None:
        """Finish or undo what a killed process left, and return what was done; None where there was nothing to do."""
        store = self.folder / VERSIONS
        for staging in store.glob(f"{_STAGING}*"):
            shutil.rmtree(staging, ignore_errors=True)
        remove_partial(self.folder)
        try:
            version = json.loads((store / _COMMITTING).read_text())["version"]
        except FileNotFoundError:
            return None
        if self.has_version(version):
            self._bring_into_use(version)
            return f"{self.main.name} was being brought to version {version} when a process ended: finished."
        (store / _COMMITTING).unlink()
        return f"Version {version} of {self.main.name} was not complete when a process ended: dropped."

    def _differences(self, version: str) -> list[str]:
        kept = self.version_folder(version)
        names = set(self.list_files(kept / self.main.name, kept))
        if self.holds_nothing_else:
            names |= set(self.list_files(self.main, self.folder))
        return [name for name in sorted(names) if not _same(self.folder / name, kept / name)]

    def _bring_into_use(self, version: str) -> None:
        kept = self.version_folder(version)
        if self.elsewhere is not None:  # first, as the list in use tells what is still to be done
            self.elsewhere.use(kept, self.elsewhere.differences(kept, reads_all=False))
        names = self._differences(version)
        for name in sorted(names, key=lambda name: name == self.main.name):  # the main file last
            if (kept / name).is_file():
                with replacing(self.folder / name) as temporary:
                    _copy(kept / name, temporary)
            else:
                (self.folder / name).unlink()
        (self.folder / VERSIONS / _COMMITTING).unlink()


@contextmanager
def held(folders: Iterable[Path], say: Callable[[str], None]) -> Iterator[None]:
    """Hold the locks of folders, so that two commands exclude each other.

    Parameters
    ----------
    say : takes a sentence about a lock whose process is gone.

    Raises
    ------
    ProjectError
        A living process holds one, or a folder cannot be written to.
    """
    taken: list[Path] = []
    try:
        for folder in sorted({folder.resolve() for folder in folders}):
            try:
                before = lock.acquire(folder, "The folder of the population or source,")
            except OSError as error:
                raise ProjectError(
                    f"The folder of the population or source, {folder}, must be writable; got '{error.strerror}'; free "
                    "space on the disk, or mend the permissions."
                ) from error
            taken.append(folder)
            if before is not None:
                say(f"{folder} was locked by {before}, which is gone: its lock was taken over.")
        yield
    finally:
        for folder in reversed(taken):
            lock.release(folder)


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its time, by which both are known to be the same without being read."""
    shutil.copyfile(source, target)
    status = source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _same(first: Path, second: Path) -> bool:
    """Whether two files hold the same: maps may be large, so of one size and time they are taken to."""
    if not (first.is_file() and second.is_file()):
        return False
    one, other = first.stat(), second.stat()
    if one.st_size != other.st_size:
        return False
    return one.st_mtime_ns == other.st_mtime_ns or filecmp.cmp(first, second, shallow=False)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
