"""`serve`: from parameters to a server that listens."""

import logging
import os
import socket
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import uvicorn

from halfmap.errors import InputError, ProjectError
from halfmap.project import lock
from halfmap.project.folder import find_project
from halfmap.web.access import Role
from halfmap.web.app import guarded, make_app
from halfmap.web.guard import is_loopback
from halfmap.web.services import Services, make_services
from halfmap.web.settings import LiveParams

MOST_MESSAGE_BYTES = 64 << 10
_LOG_BYTES = 4 << 20
_UMASK = 0o027


def serve(params: LiveParams) -> Iterator[str]:
    """Yield the addresses to open in a browser, then serve until interrupted.

    Raises
    ------
    InputError
        Nobody would be asked for a token where other machines can reach the server, or it would run as root.
    ProjectError
        The port or the work folder is taken.
    """
    check_safety(params, is_root=os.geteuid() == 0)
    os.umask(_UMASK)
    services = make_services(params, find_project())
    lock.acquire(services.work, "The folder of live sessions")
    try:
        listening = _listening(params)
        _log_into(services.work / "server.log")
        server = uvicorn.Server(_config(params, services))
        yield from _addresses(params, services, listening.getsockname()[1])
        server.run(sockets=[listening])
    finally:
        services.catalogue.close()
        lock.release(services.work)


def check_safety(params: LiveParams, *, is_root: bool) -> None:
    """Refuse what would let anybody in.

    Raises
    ------
    InputError
        See `serve`.
    """
    if params.force:
        return
    if not params.auth and not is_loopback(params.host):
        raise InputError(
            f"Without authentication the server must listen on this machine alone; got --host {params.host}; leave "
            "--no-auth out, or add --force."
        )
    if is_root:
        raise InputError("The server must not run as root; got root; start it as another user, or add --force.")


def hosts_of(params: LiveParams) -> set[str]:
    """Return the names under which browsers may know the server."""
    names = {"localhost", "127.0.0.1", "::1", params.host, *params.allowed_host}
    if not is_loopback(params.host):
        names |= {socket.gethostname(), socket.getfqdn(), *_own_addresses()}
    return names - {"0.0.0.0", "::"}


def _own_addresses() -> set[str]:
    import psutil

    found = (one.address for entries in psutil.net_if_addrs().values() for one in entries)
    return {address.partition("%")[0] for address in found}


def _listening(params: LiveParams) -> socket.socket:
    family = socket.AF_INET6 if ":" in params.host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((params.host, params.port))
        found.listen()  # so that who reads the address at once waits instead of being refused
    except OSError as error:
        found.close()
        raise ProjectError(
            f"The address {params.host}:{params.port} must be free; got '{error.strerror or error}'; choose another "
            "--port or --host, or --port 0 for a free one."
        ) from error
    return found


def _config(params: LiveParams, services: Services) -> uvicorn.Config:
    return uvicorn.Config(
        guarded(make_app(services), hosts_of(params)),
        access_log=False,  # addresses may hold tokens
        log_config=None,
        proxy_headers=False,
        server_header=False,
        root_path=params.root_path,
        ws="websockets-sansio",
        ws_max_size=MOST_MESSAGE_BYTES,
        ws_max_queue=8,
        timeout_graceful_shutdown=5,
        ssl_certfile=params.tls_certificate,
        ssl_keyfile=params.tls_key,
    )


def _log_into(path: Path) -> None:
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=3, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("uvicorn")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)


def _addresses(params: LiveParams, services: Services, port: int) -> Iterator[str]:
    scheme = "https" if params.tls_certificate else "http"
    shown = socket.gethostname() if params.host in ("0.0.0.0", "::") else params.host
    host = f"[{shown}]" if ":" in shown else shown
    base = f"{scheme}://{host}:{port}{params.root_path}/"
    if not params.auth:
        yield f"halfmap live is at {base} (no token is asked for)"
        return
    yield f"halfmap live is at {base}?token={services.access.launch()}"
    if params.read_only_link:
        token, _ = services.access.give(Role.VIEWER, "printed at the start")
        yield f"for looking only: {base}?token={token}"
