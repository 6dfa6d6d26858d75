"""`Session`: one acquisition folder that is watched and classified; what a server or a script calls.

Methods return at once: looking at the folder and computing happen in a thread and a process of their own.
"""

import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halfmap.errors import InputError
from halfmap.project.parameters import build
from halfmap.project.parameters_json import schema
from halfmap.sessions import views
from halfmap.sessions.course import Course
from halfmap.sessions.export import export
from halfmap.sessions.notifications import NotificationSettings
from halfmap.sessions.settings import LiveSettings

TICK_SECONDS = 0.5


class Session:
    """One acquisition folder that is watched and classified.

    Parameters
    ----------
    work : the session's own folder; its name is the session's id. Made if missing, gone on with if not.
    folder : the acquisition folder; never written to.
    name : for people; the folder's where left out.
    microscope : shown after the name.
    devices : of the classification, see `halfmap.project.options.RunOptions`.
    workers : processes of the classification; one on each device, or as cores and memory allow, where left out.
    cluster : description of the cluster that classifies, see ``docs/how-to/run-on-a-cluster.md``.
    poll_seconds : between two looks at the folder.
    notifications : whom to tell of failures, of a target that is reached, and of images that do not come.

    Raises
    ------
    InputError
        Nothing in the folder is recognised, or its settings do not export particles.
    ProjectError
        The work folder is in use by another process or cannot be written to.
    """

    def __init__(
        self,
        work: Path,
        folder: Path,
        *,
        name: str = "",
        microscope: str = "",
        devices: str = "auto",
        workers: int | None = None,
        cluster: Path | None = None,
        poll_seconds: float = 10.0,
        notifications: NotificationSettings | None = None,
    ) -> None:
        work, folder = work.absolute(), folder.absolute()
        self.id = work.name
        self.name = name or folder.name
        self.microscope = microscope
        self.course = Course(
            work,
            folder,
            devices=devices,
            workers=workers,
            cluster=cluster,
            poll_seconds=poll_seconds,
            name=self.name,
            notifications=notifications or NotificationSettings(),
        )
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Go on by itself, in a thread, until `close`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._ticks, name=f"session {self.id}", daemon=True)
            self._thread.start()

    def tick(self) -> None:
        """Do what there is to do now, once: look at the folder where it is time, hear the worker, start what is due."""
        self.course.tick()

    def close(self) -> None:
        """Stop watching and computing; the state stays as it is, and a session on the same folder goes on from it."""
        self._ended.set()
        self.course.woken.set()
        if self._thread is not None:
            self._thread.join()
        self.course.close()

    def snapshot(self, *, with_plots: bool = True) -> dict[str, Any]:
        """Return everything that a page shows of a session, but for its cycles' classes and its micrographs."""
        with self.course.locked:
            return {
                "id": self.id,
                "name": self.name,
                "microscope": self.microscope,
                **views.session(self.course, with_plots=with_plots),
            }

    def plots(self) -> dict[str, Any]:
        """Return the curves of a session, times in seconds since 1970."""
        with self.course.locked:
            return views.plots(self.course.observation, self.course.watch.counted, self.course.cycles)

    def settings_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the settings, for a form."""
        return schema(LiveSettings)

    def stage(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keep changed settings until a job starts; return all that are staged.

        Raises
        ------
        InputError
            A name is unknown, or a value is out of its bounds.
        """
        with self.course.locked:
            staged = {**self.course.record.staged, **values}
            self._settings(staged)
            self.course.note({"event": "staged", "values": staged})
            return staged

    def start_now(self, values: Mapping[str, Any]) -> None:
        """Start a job with the staged settings and these.

        Raises
        ------
        InputError
            A setting is wrong, there are fewer particles than classes, or a job runs already.
        """
        with self.course.locked:
            settings = self._settings({**self.course.record.staged, **values})
            self.course.require("start", "start a job")
            self.course.begin_job(settings)

    def start_automatic(self, values: Mapping[str, Any]) -> None:
        """Start jobs from now on whenever enough new particles have come.

        Raises
        ------
        InputError
            A setting is wrong, or a job runs or is listened for already.
        """
        with self.course.locked:
            staged = {**self.course.record.staged, **values}
            self._settings(staged)
            self.course.require("listen", "start automatic jobs")
            self.course.note({"event": "staged", "values": staged})
            self.course.note({"event": "act", "act": "listen"})

    def stop(self) -> None:
        """Stop all jobs: the cycle that runs is finished first."""
        with self.course.locked:
            self.course.note({"event": "act", "act": "stop"})

    def stop_hard(self) -> None:
        """Stop at once; the cycle that runs is lost, all before it stay."""
        self.course.stop_hard()

    def cycles(self) -> list[dict[str, Any]]:
        """Return all cycles in short, the first first."""
        with self.course.locked:
            return [views.cycle_in_short(one) for one in self.course.cycles]

    def cycle(self, number: int) -> dict[str, Any]:
        """Return a cycle with its classes.

        Raises
        ------
        InputError
            There is no such cycle.
        """
        with self.course.locked:
            return views.cycle(self.course.cycle(number), self.course.record.selected)

    def atlas_path(self, number: int) -> Path:
        """Return the picture of all class averages of a cycle.

        Raises
        ------
        InputError
            There is no such cycle.
        """
        with self.course.locked:
            self.course.cycle(number)
        return self.course.cycle_folder(number) / "atlas.png"

    def select(self, number: int, classes: Sequence[int], selected: bool) -> list[int]:
        """Select or deselect classes of a cycle, by number from 1; return the tracks that are selected.

        Raises
        ------
        InputError
            There is no such cycle or class.
        """
        with self.course.locked:
            tracks = self.course.tracks_of(number, classes)
            before = self.course.record.selected
            kept = [track for track in before if track not in tracks]
            after = sorted({*kept, *tracks}) if selected else kept
            if after != list(before):
                self.course.note({"event": "selected", "tracks": after})
            return after

    def undo(self) -> list[int]:
        """Take back the last change of the selection; return the tracks that are selected."""
        with self.course.locked:
            if self.course.record.undo:
                self.course.note({"event": "undone"})
            return list(self.course.record.selected)

    def micrographs(
        self, offset: int = 0, limit: int = 100, filters: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """Return micrographs in the order of their time, and how many pass the filters (see `thresholds`)."""
        course = self.course
        return views.micrographs(
            course.observation, offset, limit, filters or {}, course.record.judged, course.left_out
        )

    def thresholds(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return what thresholds would leave: micrographs and particles kept and lost.

        Parameters
        ----------
        values : some of max_resolution_angstrom, min_defocus_angstrom, max_defocus_angstrom, max_motion_angstrom,
            min_picks.

        Raises
        ------
        InputError
            A name is unknown.
        """
        return views.thresholds(self.course.observation, values, self.course.record.judged)

    def set_limits(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Leave out micrographs beyond limits (see `thresholds`), from the next cycle on; return what is left.

        Raises
        ------
        InputError
            A name is unknown, or no micrograph is left.
        """
        with self.course.locked:
            found = self.thresholds(values)
            if values and not found["micrographs_kept"]:
                raise InputError(
                    f"Limits must leave some micrographs; got none of {found['micrographs']} within "
                    f"{', '.join(f'{name} {value:g}' for name, value in values.items())}; loosen them."
                )
            if dict(values) != dict(self.course.record.limits):
                self._sift({"event": "limits", "limits": dict(values)})
                self.course.log.line(
                    f"Limits on micrographs: {found['micrographs_lost']:,} of {found['micrographs']:,} are left out, "
                    f"with {found['particles_lost']:,} particles."
                )
            return found

    def undo_limits(self) -> dict[str, Any]:
        """Take back the last change of the limits; return what is left."""
        with self.course.locked:
            if self.course.record.limits_before:
                self._sift({"event": "limits undone"})
            return self.thresholds(self.course.record.limits)

    def judge(self, micrographs: Mapping[str, bool | None]) -> dict[str, bool]:
        """Say by eye which micrographs are wanted, whatever the limits say; None takes back what was said.

        Returns
        -------
        All that was said by eye.

        Raises
        ------
        InputError
            A micrograph is not known.
        """
        with self.course.locked:
            known = self.course.observation.micrographs
            for name in micrographs:
                if name not in known and name not in self.course.record.judged:
                    raise InputError(f"A micrograph must be one of those listed; got {name!r}; read the list again.")
            self._sift({"event": "judged", "micrographs": dict(micrographs)})
            return dict(self.course.record.judged)

    def log(self, offset: int = -1) -> tuple[str, int]:
        """Return the log from an offset in bytes on, and the next offset; -1: its last 1,000 lines."""
        return self.course.log.read(offset)

    def events(self, since: int) -> list[Mapping[str, Any]] | None:
        """Return events numbered above; None where `snapshot` must be asked anew."""
        return self.course.events.since(since)

    def wait(self, since: int, timeout_seconds: float) -> bool:
        """Wait for an event numbered above; tell whether there is one."""
        return self.course.events.wait(since, timeout_seconds)

    def export(self, kind: str, destination: Path) -> Path:
        """Write what was found for other programs, see `halfmap.sessions.export.export`; return the main file."""
        with self.course.locked:
            if not self.course.cycles:
                raise InputError("There must be a cycle to export; got none yet; start a job first.")
            newest = self.course.newest_with_particles()
            selected = self.course.record.selected
            cycles = list(self.course.cycles)
            out = self.course.left_out
        return export(
            kind, destination, work=self.course.work, folder=self.course.folder, cycle=newest, cycles=cycles,
            selected=selected, settings=self.course.observation.settings, left_out=out,
        )  # fmt: skip

    def _settings(self, values: Mapping[str, Any]) -> LiveSettings:
        return build(LiveSettings, {**self.course.record.settings, **values})

    def _sift(self, event: Mapping[str, Any]) -> None:
        """Change what is left out; what has gone out of the last cycle no longer counts as classified."""
        self.course.note(event)
        if self.course.n_particles < self.course.record.n_classified:
            self.course.note({"event": "recounted", "n_classified": self.course.n_particles})

    def _ticks(self) -> None:
        while not self._ended.is_set():
            self.course.woken.wait(TICK_SECONDS)
            self.course.woken.clear()
            try:
                self.course.tick()
            except Exception as error:  # noqa: BLE001 - a session that stands still must say so, and goes on trying
                self.course.log.line(traceback.format_exc())
                self.course.say_once(f"Something went wrong that should not: {error!r}; the log has more.")
