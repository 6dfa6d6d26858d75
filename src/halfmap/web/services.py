"""`Services`: what the routes of a server share."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import HTTPException
from starlette.requests import HTTPConnection

from halfmap.errors import InputError
from halfmap.sessions.notifications import NotificationSettings
from halfmap.sessions.session import Session
from halfmap.web.access import Access
from halfmap.web.audit import Audit
from halfmap.web.catalogue import Catalogue
from halfmap.web.hub import Hub
from halfmap.web.processes import JobProcesses
from halfmap.web.roots import Roots
from halfmap.web.settings import LiveParams

_MOST_KEYS = 1000


@dataclass(kw_only=True, eq=False)
class Services:
    """What the routes of a server share."""

    params: LiveParams
    project: Path
    work: Path
    access: Access
    audit: Audit
    roots: Roots
    projects: Roots
    hub: Hub
    catalogue: Catalogue
    processes: JobProcesses
    loop_lag_seconds: float = 0.0
    _done: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _locked: threading.Lock = field(default_factory=threading.Lock)

    def reach(self, project: str, relative: str) -> Path:
        """Return the real path of something that a browser names within a project.

        Raises
        ------
        HTTPException
            404: there is nothing, or a link leads out of the project and the roots.
        """
        folder = self.projects.folders.get(project)
        if folder is None or relative.startswith("/") or "\0" in relative:
            raise HTTPException(404, "There is no such project.")
        return self.reachable(folder / relative)

    def reachable(self, path: Path) -> Path:
        """Return the real path of something that lies in the project, under a root, or in a session's folder.

        Raises
        ------
        HTTPException
            404: there is nothing, or it lies outside.
        """
        try:
            found = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            found = None
        work = self.work.resolve()
        allowed = (*self.projects.folders.values(), *self.roots.folders.values(), work)
        is_own = found is not None and found.parent == work  # tokens' digests, the audit file
        if found is None or is_own or not any(found.is_relative_to(folder) for folder in allowed):
            raise HTTPException(404, "There is no such file or folder.")
        return found

    @contextmanager
    def once(self, what: str, key: str | None) -> Iterator[bool]:
        """Yield whether a command is to be carried out: not where one of the same key has been, or is being.

        Parameters
        ----------
        what : it does, to what.
        key : that the client chose; None: each is a command of its own.
        """
        name = f"{what}\0{key}"
        with self._locked:
            is_first = key is None or name not in self._done
            if key is not None and is_first:
                self._done[name] = None
            while len(self._done) > _MOST_KEYS:
                self._done.popitem(last=False)
        try:
            yield is_first
        except BaseException:
            with self._locked:
                self._done.pop(name, None)
            raise


def services_of(connection: HTTPConnection) -> Services:
    """Return the services of the server that a connection belongs to."""
    found: Services = connection.app.state.services
    return found


def make_services(params: LiveParams, project: Path) -> Services:
    """Prepare a server's services.

    Parameters
    ----------
    project : its folder, where jobs are listed and started.

    Raises
    ------
    InputError
        A root is no folder, or the description of the cluster no file.
    """
    work = (params.work or project / "Live").absolute()
    work.mkdir(parents=True, exist_ok=True)
    if params.cluster is not None and not params.cluster.is_file():
        raise InputError(
            f"The description of the cluster must be a file; got {params.cluster}; write it, or leave --cluster out."
        )
    hub = Hub()
    roots = Roots(params.root)

    def opened(own: Path, folder: Path) -> Session:
        return Session(
            own,
            folder,
            microscope=params.microscope_name,
            devices=params.devices,
            workers=params.workers,
            cluster=params.cluster,
            poll_seconds=params.poll_seconds,
            notifications=NotificationSettings(
                webhook_url=params.webhook_url,
                email_to=params.email_to,
                email_from=params.email_from,
                smtp_host=params.smtp_host,
                smtp_port=params.smtp_port,
                no_image_minutes=params.no_image_minutes,
                target_particles=params.target_particles,
            ),
        )

    return Services(
        params=params,
        project=project,
        work=work,
        access=Access(work / "access.json"),
        audit=Audit(work / "audit.jsonl"),
        roots=roots,
        projects=Roots([project]),
        hub=hub,
        catalogue=Catalogue(work, roots, opened, hub),
        processes=JobProcesses(hub),
    )
