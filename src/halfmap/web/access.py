"""`Access`: who may do what. Tokens are long, and only their hashes are kept."""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from pathlib import Path

from halfmap.project.private_file import read_private_json, write_private_json

TOKEN_BYTES = 32
BROWSER_SECONDS = 7 * 86400.0
MOST_BROWSERS = 1000
MOST_FAILURES = 10
FAILURE_SECONDS = 60.0
_MOST_ADDRESSES = 10_000


class Role(IntEnum):
    """What somebody may do; each may do what those below may."""

    VIEWER = 1
    """Look."""
    OPERATOR = 2
    """Start, stop, select, open sessions under the roots, start jobs."""
    ADMIN = 3
    """Give links and take them back."""


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A right, and how it is shown.

    Parameters
    ----------
    id : to take it back by.
    role : what it allows.
    name : of whom or what it was given to.
    kind : ``launch``, ``link``, ``browser`` (a cookie that a token was swapped for) or ``user`` (named by a proxy).
    digest : SHA-256 of the secret, hexadecimal; empty where there is none.
    parent : id of the grant that a browser's was swapped for.
    expires : in seconds since 1970; 0: when the server ends or it is taken back.
    """

    id: str
    role: Role
    name: str
    kind: str
    digest: str = ""
    parent: str = ""
    expires: float = 0.0

    @property
    def is_ambient(self) -> bool:
        """Whether a browser sends it by itself, so that commands need a second proof."""
        return self.kind in ("browser", "user", "open")


class Access:
    """The grants of a server, kept in a file that only its owner may read.

    Parameters
    ----------
    path : of the file; links and browsers in it outlive the server, its launch token does not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._locked = threading.Lock()
        content = read_private_json(path) or {}
        self._secret = bytes.fromhex(content.get("secret", "")) or secrets.token_bytes(TOKEN_BYTES)
        self._grants = [Grant(**{**one, "role": Role(one["role"])}) for one in content.get("grants", [])]
        self._failures: dict[str, list[float]] = {}

    def launch(self) -> str:
        """Return a new token of an administrator, for the address that is printed."""
        with self._locked:
            self._grants = [one for one in self._grants if one.kind != "launch" and not one.parent.startswith("launch")]
            return self._add(Role.ADMIN, "launch", "launch", expires=0.0)[0]

    def give(self, role: Role, name: str, *, seconds: float = 0.0) -> tuple[str, Grant]:
        """Return a new token and its grant.

        Parameters
        ----------
        seconds : that it lasts; 0: until it is taken back.
        """
        with self._locked:
            return self._add(role, name, "link", expires=time.time() + seconds if seconds else 0.0)

    def swap(self, grant: Grant) -> str:
        """Return the secret of a browser that showed a token."""
        with self._locked:
            browsers = [one for one in self._grants if one.kind == "browser"]
            for oldest in browsers[: max(0, len(browsers) - MOST_BROWSERS + 1)]:
                self._grants.remove(oldest)
            end = time.time() + BROWSER_SECONDS
            return self._add(
                grant.role,
                grant.name,
                "browser",
                expires=min(end, grant.expires) if grant.expires else end,
                parent=grant.id,
            )[0]

    def take_back(self, identity: str) -> bool:
        """End a grant and what was swapped for it; tell whether there was one."""
        with self._locked:
            kept = [one for one in self._grants if identity not in (one.id, one.parent)]
            found = len(kept) < len(self._grants)
            self._grants = kept
            self._save()
            return found

    def links(self) -> list[Grant]:
        """Return the links that were given, without their digests."""
        return [replace(one, digest="") for one in self._valid() if one.kind == "link"]

    def grant_of(self, token: str, kinds: Iterable[str]) -> Grant | None:
        """Return what a token allows; None where it is none of these kinds."""
        digest = _digest(token)
        found = None
        for one in self._valid():
            if hmac.compare_digest(one.digest, digest) and one.kind in kinds:
                found = one
        return found

    def holds(self, grant: Grant) -> bool:
        """Whether a grant has not ended since."""
        return grant.kind in ("user", "open") or any(one.id == grant.id for one in self._valid())

    def proof(self, grant: Grant) -> str:
        """Return what a page must send along with commands, so that no other page can give them for it."""
        return hmac.new(self._secret, f"{grant.kind}\0{grant.id}".encode(), "sha256").hexdigest()

    def ticket(self, what: str) -> str:
        """Return what opens one thing alone, without any other right."""
        return hmac.new(self._secret, f"ticket\0{what}".encode(), "sha256").hexdigest()

    def is_ticket(self, ticket: str, what: str) -> bool:
        """Whether a ticket opens a thing."""
        return hmac.compare_digest(ticket.encode("utf-8", "surrogatepass"), self.ticket(what).encode())

    def may_fail(self, address: str) -> bool:
        """Count a wrong token, and tell whether the address may go on: not after ten within a minute.

        Right tokens are heard all the same, so that nobody who shares an address is locked out by another's guesses.
        """
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.clear()
        recent = [at for at in self._failures.get(address, []) if at > time.monotonic() - FAILURE_SECONDS]
        self._failures[address] = [*recent[-MOST_FAILURES:], time.monotonic()]
        return len(recent) < MOST_FAILURES

    def _valid(self) -> list[Grant]:
        now = time.time()
        return [one for one in self._grants if not one.expires or one.expires > now]

    def _add(self, role: Role, name: str, kind: str, *, expires: float, parent: str = "") -> tuple[str, Grant]:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        identity = f"{kind}-{secrets.token_hex(8)}"
        grant = Grant(
            id=identity, role=role, name=name, kind=kind, digest=_digest(token), parent=parent, expires=expires
        )
        self._grants = [*self._valid(), grant]
        self._save()
        return token, grant

    def _save(self) -> None:
        kept = [asdict(one) for one in self._grants if one.kind != "launch" and not one.parent.startswith("launch")]
        write_private_json(self._path, {"schema": 1, "secret": self._secret.hex(), "grants": kept})


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
