"""`Course`: what goes on in a session, its looks at the folder, jobs, cycles and failures; `Session` is the facade."""

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from halfmap.errors import HalfmapError, InputError
from halfmap.project import lock
from halfmap.project.parameters import build
from halfmap.project.parameters_json import to_json
from halfmap.sessions import plan, store
from halfmap.sessions.child import Child
from halfmap.sessions.hearing import Hearing
from halfmap.sessions.notifications import Alarms, NotificationSettings
from halfmap.sessions.observation import Observation
from halfmap.sessions.raw_source import Preparation, RawSource
from halfmap.sessions.settings import LiveSettings
from halfmap.sessions.sifting import left_out, sifted
from halfmap.sessions.watch import Watch
from halfmap.sessions.watching import open_source

LEAST_FREE_BYTES = 256 << 20


class Course(Hearing):
    """What goes on in a session; see `halfmap.sessions.session.Session` for the parameters."""

    def __init__(
        self,
        work: Path,
        folder: Path,
        *,
        devices: str,
        workers: int | None,
        cluster: Path | None,
        poll_seconds: float,
        name: str,
        notifications: NotificationSettings,
    ) -> None:
        source = open_source(folder, work)
        if not _may_lie(work.resolve(), folder.resolve()):
            raise InputError(
                f"The session's own folder must lie outside the acquisition folder {folder}; got {work}; choose "
                "another with --work."
            )
        work.mkdir(parents=True, exist_ok=True)
        before = lock.acquire(work, "The session folder")
        try:
            store.end_orphan(work)
            super().__init__(work, name=name, notifications=notifications)
            self.folder = folder
            self.watch = Watch(source, poll_seconds)
            self._begin_record()
        except BaseException:
            lock.release(work)  # a full disk, say; who tries again must not find it taken
            raise
        self._options = (devices, str(workers or 0), "" if cluster is None else str(cluster.absolute()))
        self._alarms = Alarms(notifications)
        self._preparation = (
            Preparation(source, devices=devices, workers=workers, heard=self.woken.set)
            if isinstance(source, RawSource)
            else None
        )
        self._closed = False
        self._sifted: tuple[tuple[Any, ...], tuple[frozenset[str], Observation]] | None = None
        if before is not None:
            self.tell(f"Took over the session from {before}, which is gone.")

    @property
    def observation(self) -> Observation:
        """What is known of the folder."""
        return self.watch.observation

    @property
    def left_out(self) -> frozenset[str]:
        """Micrographs that are left out by limits or by eye."""
        return self._sifting()[0]

    @property
    def used(self) -> Observation:
        """What is known of the folder, without the particles of micrographs that are left out."""
        return self._sifting()[1]

    def _sifting(self) -> tuple[frozenset[str], Observation]:
        """Work out what is left out, once for each look and each change of what is wanted."""
        key = (self.observation, self.record.limits, self.record.judged)
        if self._sifted is None or any(old is not new for old, new in zip(self._sifted[0], key, strict=True)):
            out = left_out(*key)
            self._sifted = (key, (out, sifted(self.observation, out)))
        return self._sifted[1]

    @property
    def n_particles(self) -> int:
        """Particles that can be used now and are wanted."""
        return self.used.n_particles

    # what changes it

    def require(self, act: str, what: str) -> None:
        """Refuse an act that the state does not allow."""
        if plan.after(self.record.state, act) is None:
            raise InputError(
                f"The session must be stopped to {what}; got the state {self.record.state}; stop all jobs first."
                if act == "listen"
                else f"The session must be stopped or listening to {what}; got the state {self.record.state}; wait for "
                "the job that runs, or stop it."
            )

    def begin_job(self, settings: LiveSettings) -> None:
        """Begin a job with the particles there are."""
        kind = plan.job_type(settings, has_classes=bool(self.cycles), forced=self.record.forced)
        n = self.n_particles
        n_classes = settings.classes if kind == "abinit" else int(self.cycles[-1]["n_classes"])
        if n < n_classes:
            raise InputError(
                f"There must be at least as many particles as classes to start; got {n:,} of {n_classes}; wait for "
                "more, or ask for fewer classes."
            )
        cycles = plan.cycles_of(settings, n, kind=kind, n_when_risen=self.record.n_when_risen)
        self._retry_at = None
        store.remove_parts(self.work)
        self.note(
            {
                "event": "job",
                "type": kind,
                "settings": to_json(settings),
                "cycles": [asdict(one) for one in cycles],
                "first_cycle": self.last_cycle + 1,
                "n_particles": n,
                "rises": cycles[0].kind in ("seed", "startup"),
                "restart_key": list(self.observation.settings.restart_key),
            }
        )
        self.log.line(f"A job begins: {kind}, {len(cycles)} cycles, {n:,} particles.")

    def stop_hard(self) -> None:
        """End the child, forget the cycle that runs, and be stopped."""
        with self.locked:
            self.note({"event": "act", "act": "stop hard"})
            child, self._child, self._in_flight = self._child, None, None
            self._retry_at = None
            self._said.clear()
        if child is not None:
            child.end()
            with self.locked:
                self.note_published()
                store.remove_parts(self.work)
        self.show(None)

    def tick(self) -> None:
        """Do what there is to do now, once; what goes wrong becomes a notice or a failure, never an exception."""
        try:
            self._look()
        except (HalfmapError, OSError) as error:
            self.say_once(f"The folder cannot be read now, it is tried again: {error}")
        with self.locked:
            if self._closed:
                return
            number: int | None = None
            try:
                self._hear()
                number = self._go_on()
                self._prepare()
                self._alarm()
            except (HalfmapError, OSError) as error:
                self.say_once(str(error))
        if number is not None:
            try:
                self._make_ready(number)
            except (HalfmapError, OSError) as error:
                with self.locked:
                    self._in_flight = None
                    self.say_once(str(error))

    def close(self) -> None:
        """End the child and give the folder back; the state stays."""
        with self.locked:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            child.end()
        if self._preparation is not None:
            self._preparation.close()
        self.close_book()
        lock.release(self.work)

    # within

    def _begin_record(self) -> None:
        if not self.record.settings:
            guess = self.observation.settings.mask_radius_angstrom
            first = LiveSettings() if guess is None else LiveSettings(mask_radius_angstrom=guess)
            self.note({"event": "opened", "folder": str(self.folder), "settings": to_json(first)})
        try:
            build(LiveSettings, {**self.record.settings, **self.record.staged})
        except InputError as error:  # of a version that took them
            self.note({"event": "staged", "values": {}})
            self.tell(f"Changed settings that no job has begun with are dropped: {error}")

    def _look(self) -> None:
        if not self.watch.is_due:
            return
        found = self.watch.look()
        with self.locked:
            if self.watch.take(found):
                self.events.publish("counts", particles=found.n_particles, micrographs=len(found.micrographs))
            for text in found.notices:
                self.tell(text)
            key = found.settings.restart_key
            if self.cycles and self.record.restart_key not in ((), key) and not self.record.forced:
                self.note({"event": "forced"})
                self.tell("Box, network or threshold of the particles changed: the next job begins ab initio.")

    def _prepare(self) -> None:
        """Let micrographs be picked and extracted while jobs run or are listened for."""
        if self._preparation is not None:
            settings = build(LiveSettings, {**self.record.settings, **self.record.staged})
            is_wanted = self.record.state in ("running", "listening") and self.folder.is_dir()
            told = self._preparation.step(settings, is_wanted=is_wanted)
            if told:
                self.tell(told)

    def _alarm(self) -> None:
        seen = self.observation
        is_active = self.record.state in ("running", "listening")
        for kind, text in self._alarms.due(
            last_image_s=seen.last_image_s, n_particles=self.n_particles, is_active=is_active, now_s=time.monotonic()
        ):
            self.tell(text, kind=kind)

    def _go_on(self) -> int | None:
        """Do what the state asks for; return the number of a cycle that is to begin."""
        record = self.record
        if record.state in ("running", "stopping") and self._in_flight is None:
            position = self._position(self.last_cycle + 1)
            if record.state == "stopping" or record.forced or position >= len(record.job["cycles"]):
                self._finish_job()
            elif self.watch.is_settled and self._has_room() and self._has_folder():
                self._in_flight = self.last_cycle + 1
                return self._in_flight
        elif record.state == "listening":
            settings = build(LiveSettings, {**record.settings, **record.staged})
            if plan.should_start(
                settings,
                record.state,
                n_particles=self.n_particles,
                n_classified=0 if record.forced else record.n_classified,
                has_classes=bool(self.cycles) and not record.forced,
            ):
                self.begin_job(settings)
        elif record.state == "failed":
            self._retry()
        elif record.state == "stopped" and self._child is not None:
            self._child.end()  # while jobs are listened for, it waits: it takes long to begin
            self._child = None
        return None

    def _position(self, number: int) -> int:
        """Return the place of a cycle in its job; where one before the job was damaged, the first comes once more."""
        return max(0, number - int(self.record.job["first_cycle"]))

    def _finish_job(self) -> None:
        settings = to_json(self.settings)
        if self.record.state == "running" and not self.record.forced:
            settings["classification_type"] = plan.type_after(self.settings)
            self.tell(f"The job has ended after cycle {self.last_cycle}.", kind="job ended")
        self.note({"event": "finished", "settings": settings})

    def _make_ready(self, number: int) -> None:
        """Write down what the next cycle is made of, without the lock: it may take long; then ask for it."""
        job, position = self.record.job, self._position(number)
        try:
            store.prepare(
                self.work,
                number,
                observation=self.used,
                folder=self.folder,
                settings=job["settings"],
                plan=job["cycles"][position],
                is_ab_initio=job["type"] == "abinit",
            )
        except (HalfmapError, OSError) as error:
            with self.locked:
                self._in_flight = None
                self._fail(str(error))
            return
        with self.locked:
            if self._closed or self._in_flight != number or self.record.job is not job:
                return
            if self._child is None:
                arguments = ("halfmap.sessions.worker", str(self.work), *self._options)
                self._child = Child(self.work, arguments, self.woken.set)
                store.note_child(self.work, self._child.process.pid)
            self.note({"event": "cycle started", "cycle": number})
            self._child.send({"cycle": number})

    def _has_room(self) -> bool:
        free = shutil.disk_usage(self.work).free
        if free >= LEAST_FREE_BYTES:
            return True
        self.say_once(f"The disk of {self.work} is full: {free >> 20} MiB are free; the next cycle waits for room.")
        return False

    def _has_folder(self) -> bool:
        if self.folder.is_dir():
            return True
        self.say_once(f"The folder {self.folder} is not there; the next cycle waits for it.")
        return False


def _may_lie(work: Path, folder: Path) -> bool:
    """Return whether a session may keep its state in a folder: outside the acquisition's, or in a project's Live/."""
    is_project = (folder / ".halfmap").is_dir() or (folder / "default_pipeline.star").is_file()
    return not work.is_relative_to(folder) or (is_project and work.is_relative_to(folder / "Live"))
