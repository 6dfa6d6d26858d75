"""Acquisition folders: what kind one is, and what opens it."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from halfmap.errors import HalfmapError, InputError
from halfmap.jobs.motion import MOVIES_FILE
from halfmap.sessions.observation import Observation, SourceKind, SourceSettings
from halfmap.sessions.raw_movies import MoviesSource
from halfmap.sessions.raw_source import RawSource
from halfmap.sessions.relion_source import RelionSource, micrographs_table, particles_table
from halfmap.sessions.warp_settings import settings_of
from halfmap.sessions.warp_source import PREVIOUS, WarpSource, settings_files

PROCESSED = "processed_items.json"


class Source(Protocol):
    """An acquisition folder that is read and never written to."""

    @property
    def kind(self) -> SourceKind:
        """What wrote it."""

    @property
    def folder(self) -> Path:
        """Where it is."""

    @property
    def micrographs_folder(self) -> Path:
        """Where the tables of micrographs are that hold for it."""

    def settings(self) -> SourceSettings:
        """Read what the folder says of its particles.

        Raises
        ------
        InputError
            Its particles are not exported.
        HalfmapError
            It cannot be read.
        """

    def poll(self, previous: Observation) -> Observation:
        """Look again and return what is known now.

        What is missing or half written is waited for: it changes nothing of what was known.
        """


def recognise(folder: Path) -> SourceKind | None:
    """Return what wrote a folder, None where nothing is recognised or it cannot be read."""
    try:
        if (folder / MOVIES_FILE).is_file():
            return "movies"
        if (folder / PREVIOUS).is_file():
            return settings_of(folder / PREVIOUS)[0]
        if settings_files(folder) or (folder / PROCESSED).is_file():
            return "warptools"
        if particles_table(folder) is not None:
            return "relion"
        if micrographs_table(folder) is not None:
            return "micrographs"
    except (HalfmapError, OSError):
        return None
    return None


def open_source(folder: Path, work: Path) -> Source:
    """Return what reads a folder.

    Parameters
    ----------
    folder : of the acquisition.
    work : of the session, where particles go that are found in micrographs.

    Raises
    ------
    InputError
        Nothing is recognised, or particles are not exported.
    """
    kind = recognise(folder)
    if kind is None:
        raise InputError(
            f"{folder} must hold previous.settings or another *.settings of Warp, WarpTools' {PROCESSED}, tables of "
            "RELION (Extract/jobNNN/particles.star, CtfFind/jobNNN/micrographs_ctf.star), or raw movies and "
            f"{MOVIES_FILE}; got none; choose the folder in which the processing writes."
        )
    openers: dict[SourceKind, Callable[[Path], Source]] = {
        "warp1": lambda path: WarpSource(path, "warp1"),
        "warp2": lambda path: WarpSource(path, "warp2"),
        "warptools": lambda path: WarpSource(path, "warptools"),
        "relion": lambda path: RelionSource(path, "relion"),
        "micrographs": lambda path: RawSource(path, work),
        "movies": lambda path: MoviesSource(path, work),
    }
    source = openers[kind](folder)
    source.settings()
    return source
