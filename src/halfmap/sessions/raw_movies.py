"""`MoviesSource`: raw movies are watched; the session makes micrographs of them, and finds their CTF and particles."""

import math
import os
import time
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeVar

from halfmap.ctf_estimation.params import check_resolution
from halfmap.errors import FormatError, HalfmapError, InputError
from halfmap.io.frames import MOVIE_SUFFIXES
from halfmap.jobs.ctf import CtfJobParams
from halfmap.jobs.motion import MOVIES_FILE, MotionJobParams
from halfmap.project.parameters import build
from halfmap.sessions import stacks
from halfmap.sessions.observation import Setting, Signature, SourceSettings
from halfmap.sessions.preparation import MOST_MOVIES, RAW, batch_plan, next_batch, write_movie_batch
from halfmap.sessions.raw_source import RawSource
from halfmap.sessions.settings import LiveSettings

QUIET_SECONDS = 20.0
"""How long a movie must not change before it is taken to be complete."""

_PATHS = ("gain", "defects")
_OF_SESSION = {"motion": ("movies",), "ctf": ("micrographs", "pixel_size_angstrom")}
"""Parameters that the session gives to the jobs itself."""

P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class MoviePlan:
    """Which movies a session takes, and how they become micrographs with their CTF.

    Parameters
    ----------
    pattern : of the movies' paths below the folder, as ``Movies/*.tif``.
    motion, ctf : parameters of ``halfmap motion`` and ``halfmap ctf`` by name, paths absolute.
    pixel_size_angstrom : of the sums.
    """

    pattern: str
    motion: Mapping[str, Any] = field(default_factory=dict)
    ctf: Mapping[str, Any] = field(default_factory=dict)
    pixel_size_angstrom: float

    @classmethod
    def read(cls, path: Path) -> "MoviePlan":
        """Read ``movies.toml``: ``movies`` is the pattern, tables ``motion`` and ``ctf`` hold parameters.

        Raises
        ------
        FormatError
            It is not TOML, or lacks the pattern.
        InputError
            A parameter is not known or outside its domain, the pattern leads out of the folder, the pixel size is
            missing, or a file that is named is not there.
        """
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows begin with a mark
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FormatError(path, expected="TOML", found=str(error)) from error
        pattern, motion, ctf = given.get("movies"), given.get("motion", {}), given.get("ctf", {})
        unknown = sorted(set(given) - {"movies", "motion", "ctf"})
        if not isinstance(pattern, str) or unknown or not isinstance(motion, dict) or not isinstance(ctf, dict):
            raise FormatError(
                path,
                expected='movies = "Movies/*.tif" and the tables [motion] and [ctf]',
                found=f"the names {', '.join(sorted(given)) or 'of nothing'}",
                remedy="name the movies by a pattern of their paths below this folder",
            )
        _check_pattern(path, pattern)
        motion = motion | {name: _file_beside(path, name, motion[name]) for name in _PATHS if name in motion}
        checked = _checked(path, "motion", MotionJobParams, motion)
        size = checked.pixel_size_angstrom
        if size is None or not math.isfinite(size):
            raise InputError(
                f"{path} must say pixel_size_angstrom of the frames in its table [motion]; got {size and f'{size:g}'}; "
                "add it."
            )
        checked_ctf = _checked(path, "ctf", CtfJobParams, ctf)
        try:
            check_resolution(size * checked.bin, checked_ctf)
        except InputError as error:
            raise _said_of(path, "ctf", error) from error
        return cls(pattern=pattern, motion=motion, ctf=ctf, pixel_size_angstrom=size * checked.bin)


def _checked(path: Path, table: str, parameters: type[P], values: Mapping[str, Any]) -> P:
    given = [name for name in _OF_SESSION[table] if name in values]
    if given:
        raise InputError(
            f"The table [{table}] of {path} must leave out what the session gives itself; got {', '.join(given)}; "
            "remove that line."
        )
    try:
        return build(parameters, {**values, _OF_SESSION[table][0]: ["m"]})
    except InputError as error:
        raise _said_of(path, table, error) from error


def _said_of(path: Path, table: str, error: InputError) -> InputError:
    return InputError(f"The table [{table}] of {path} holds what cannot be used: {error}")


def _check_pattern(path: Path, pattern: str) -> None:
    parts = PurePath(pattern).parts
    if (
        not parts
        or PurePath(pattern).is_absolute()
        or ".." in parts
        or any("**" in one and one != "**" for one in parts)
    ):
        raise InputError(
            f"movies in {path} must be a pattern of paths below this folder; got {pattern!r}; write it as "
            "Movies/*.tif, or **/*.tif for all folders."
        )


def _file_beside(path: Path, name: str, given: Any) -> str:
    found = path.parent.absolute() / given if isinstance(given, str) else None
    if found is None or not found.is_file():
        raise InputError(
            f"{name} in {path} must be a file, its path from this folder; got {given!r}; put it there, or name another."
        )
    return str(found)


class MoviesSource(RawSource):
    """A folder of raw movies with a ``movies.toml``.

    Parameters
    ----------
    folder : it.
    work : the session's folder, in which micrographs and particles go.

    Raises
    ------
    FormatError, InputError
        ``movies.toml`` is at fault.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        super().__init__(folder, work)
        self.kind = "movies"
        self.micrographs_folder = work / RAW
        self._first_seen: dict[str, tuple[Signature, float]] = {}
        self._plan = MoviePlan.read(folder / MOVIES_FILE)

    def settings(self) -> SourceSettings:
        """Read the pixel size of the sums; see `halfmap.sessions.watching.Source`."""
        size = Setting(value=self._plan.pixel_size_angstrom, unit="Å", provenance=f"{MOVIES_FILE}: motion")
        return SourceSettings(values={"micrograph_pixel_size_angstrom": size})

    def next_batch(self, failed: Mapping[str, str]) -> tuple[int, dict[str, Path]]:
        """Return number and movies of the next batch: those at rest that were in none before."""
        self.complaint = ""
        try:
            self._plan = MoviePlan.read(self.folder / MOVIES_FILE)
        except (HalfmapError, OSError) as error:  # changed by hand meanwhile, or away
            self.complaint = f"What {MOVIES_FILE} said before holds on: {error}"
        at_rest = self._at_rest(self._plan.pattern)
        if not self._first_seen and not self.complaint:
            self.complaint = (
                f"No movie is at {self._plan.pattern} below {self.folder} yet; if there should be some, correct the "
                f"pattern in {MOVIES_FILE} (letters large and small differ, and / stands between folders)."
            )
        return next_batch(self.work, self.folder, at_rest, failed, most=MOST_MOVIES)

    @property
    def conditions(self) -> object:
        """The description of the movies, and the files it names, by size and time."""
        signatures = []
        for name in _PATHS:
            if name in self._plan.motion:
                with suppress(OSError):
                    signatures.append(stacks.signature_of(Path(self._plan.motion[name])))
        return self._plan, signatures

    def write_batch(self, number: int, found: Mapping[str, Path], settings: LiveSettings) -> None:
        """Write down a batch."""
        plan = self._plan
        particles = batch_plan(settings, plan.pixel_size_angstrom)
        write_movie_batch(self.work, number, found, particles, motion=plan.motion, ctf=plan.ctf)

    def _at_rest(self, pattern: str) -> list[str]:
        """Return the movies that have not changed for some time, the oldest first."""
        now, found = time.monotonic(), []
        others = {self._plan.motion.get(name) for name in _PATHS}
        work = os.path.relpath(self.work.resolve(), self.folder.resolve())  # its own sums are no movies either
        for path in self.folder.glob(pattern):
            below = path.relative_to(self.folder)
            is_movie = path.suffix.lower() in MOVIE_SUFFIXES and str(path.absolute()) not in others
            if not is_movie or below.is_relative_to(work):
                continue
            name = str(below)
            try:
                signature = stacks.signature_of(path)
            except OSError:  # taken away since
                continue
            before = self._first_seen.get(name)
            if before is None or before[0] != signature:
                before = self._first_seen[name] = (signature, now)
            if now - before[1] >= QUIET_SECONDS:
                found.append((signature[0], name))
        return [name for _, name in sorted(found)]
