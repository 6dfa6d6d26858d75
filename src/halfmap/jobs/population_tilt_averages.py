"""Averages of tilts, and the metadata of their movies, that a data source has made anew: kept by content.

They lie with the frames, not beside the source, and are large. So a version of a source lists which content each of
them has, in ``<source>_averages.json``, and what is not in use is kept once, in ``average/versions/<content>/``.
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path

from halfmap.errors import ProjectError
from halfmap.io.atomic import replacing, write_json
from halfmap.io.data_hash import content_hash

_AVERAGES = "average"


@dataclass(frozen=True, kw_only=True, eq=False)
class TiltAverages:
    """What a source has made anew.

    Parameters
    ----------
    source : the ``.source`` file.
    """

    source: Path

    @property
    def name(self) -> str:
        """Of the list, beside the source and in its versions."""
        return f"{self.source.stem}_averages.json"

    def stage(self, made: Iterable[tuple[Path, Path]], staged: Path, versions: Iterable[Path]) -> None:
        """Keep new files by their content, and list them in a version that is being made; nothing in use changes.

        Parameters
        ----------
        made : new files, and those that they are to replace.
        staged : folder of the new version.
        versions : folders of the versions there are; all have what is in use now of files that were not listed so far.
        """
        new = {self._key(live): (live, file, content_hash(file)) for file, live in made}
        if not new:
            return
        before = _read(self.source.with_name(self.name))
        found = {key: content_hash(live) for key, (live, _, _) in new.items() if key not in before.original}
        for folder in (*versions, self.source.parent):
            _read(folder / self.name).with_originals(found).write(folder / self.name)
        for live, file, content in new.values():
            kept = _kept(live, content)
            if content_hash(live) != content and not kept.is_file():
                with replacing(kept) as partial:
                    shutil.copyfile(file, partial)
        listed = before.with_originals(found)
        now = {**listed.now, **{key: content for key, (_, _, content) in new.items()}}
        _Listing(original=listed.original, now=now).write(staged / self.name)

    def mark(self, folder: Path) -> bytes:
        """Return what tells the averages of a version from those there were at first; nothing where none differ."""
        listing = _read(folder / self.name)
        changed = {key: content for key, content in listing.now.items() if content != listing.original[key]}
        return json.dumps(changed, sort_keys=True).encode() if changed else b""

    def differences(self, version: Path, *, reads_all: bool) -> list[str]:
        """Return which files of a version are not in use.

        Parameters
        ----------
        version : its folder.
        reads_all : look into every file, not only at what the lists say.
        """
        before, wanted = _read(self.source.with_name(self.name)), _read(version / self.name)
        return [
            key
            for key, content in wanted.now.items()
            if (reads_all or before.now.get(key) != content) and not _is_of(self._path(key), content)
        ]

    def check(self, version: Path, keys: Iterable[str]) -> None:
        """Raise `ProjectError` where files of a version are neither in use nor kept."""
        wanted = _read(version / self.name).now
        lost = [key for key in keys if not _kept(self._path(key), wanted[key]).is_file()]
        if lost:
            raise ProjectError(
                f"Averages of a version must be kept to be used again; got none of {len(lost)}, such as "
                f"{_kept(self._path(lost[0]), wanted[lost[0]])}; put them back, or check out another version."
            )

    def use(self, version: Path, keys: Iterable[str]) -> None:
        """Bring files of a version into use, and keep those before."""
        wanted = _read(version / self.name).now
        for key in keys:
            live, kept = self._path(key), _kept(self._path(key), wanted[key])
            if not kept.is_file():
                continue  # lost since it was checked: better an average of another version than none
            if live.is_file():
                before = _kept(live, content_hash(live))
                before.parent.mkdir(parents=True, exist_ok=True)
                os.replace(live, before)
            os.replace(kept, live)

    def _key(self, path: Path) -> str:
        return Path(relpath(path, self.source.parent)).as_posix()

    def _path(self, key: str) -> Path:
        return self.source.parent / key


@dataclass(frozen=True, kw_only=True, eq=False)
class _Listing:
    """Contents of files, by their paths: those that there were at first, and those of a version."""

    original: dict[str, str]
    now: dict[str, str]

    def with_originals(self, found: dict[str, str]) -> "_Listing":
        return _Listing(original={**self.original, **found}, now={**found, **self.now})

    def write(self, path: Path) -> None:
        write_json(path, {"original": self.original, "now": self.now})


def _read(path: Path) -> _Listing:
    if not path.is_file():
        return _Listing(original={}, now={})
    return _Listing(**json.loads(path.read_text()))


def _kept(live: Path, content: str) -> Path:
    averages = live.parent if live.parent.name == _AVERAGES else live.parent / _AVERAGES
    return averages / "versions" / content / live.name


def _is_of(path: Path, content: str) -> bool:
    return path.is_file() and content_hash(path) == content
