"""What a route demands of whoever calls it: every route declares it, by one of the dependencies made here."""

import hmac
from collections.abc import Iterable
from typing import Any

from fastapi import Depends, HTTPException, WebSocketException, status
from starlette.requests import HTTPConnection

from halfmap.web.access import Grant, Role
from halfmap.web.services import Services, services_of

COOKIE = "halfmap"
PROOF_COOKIE = "halfmap_csrf"
TOKEN_HEADER = "x-halfmap-token"
PROOF_HEADER = "x-halfmap-csrf"
_SAFE = ("GET", "HEAD", "OPTIONS")


class Demand:
    """A dependency that lets through who may do what the route does.

    Parameters
    ----------
    role : that is needed; None: the route is open to everybody.
    """

    def __init__(self, role: Role | None) -> None:
        self.role = role

    async def __call__(self, connection: HTTPConnection) -> None:
        """Look whether the caller may.

        Raises
        ------
        HTTPException
            401: nobody is logged in; 403: not enough rights, or the proof is missing that the page itself asks.
        """
        services = services_of(connection)
        if self.role is None:
            return
        grant = identified(connection, services)
        connection.state.grant = grant
        if grant is None:
            raise _refusal(connection, 401, "Log in with the token that halfmap live printed.")
        if grant.role < self.role:
            needed = self.role.name.lower()
            raise _refusal(connection, 403, f"This takes the role {needed}; yours is {grant.role.name.lower()}.")
        method = connection.scope.get("method", "GET")
        if method not in _SAFE and grant.is_ambient:
            shown = connection.headers.get(PROOF_HEADER, "")
            if not hmac.compare_digest(shown.encode("utf-8", "surrogatepass"), services.access.proof(grant).encode()):
                raise _refusal(connection, 403, f"The header {PROOF_HEADER} must hold the value that /api/v1/me gives.")


def _refusal(connection: HTTPConnection, code: int, text: str) -> Exception:
    if connection.scope["type"] == "websocket":
        return WebSocketException(status.WS_1008_POLICY_VIOLATION, text)
    return HTTPException(code, text)


open_to_all: Any = Depends(Demand(None))
viewer: Any = Depends(Demand(Role.VIEWER))
operator: Any = Depends(Demand(Role.OPERATOR))
admin: Any = Depends(Demand(Role.ADMIN))


def demands_of(dependencies: Iterable[Any]) -> list[Demand]:
    """Return the demands among the dependencies of a route."""
    return [one.dependency for one in dependencies if isinstance(getattr(one, "dependency", None), Demand)]


def identified(connection: HTTPConnection, services: Services) -> Grant | None:
    """Return what the caller may do; None where nobody is known.

    A token counts in a header, never in the address; a cookie on a websocket only beside the page's own origin, which
    the guard has looked at.
    """
    params = services.params
    if not params.auth:
        return Grant(id="open", role=Role.ADMIN, name="everybody", kind="open")
    bearer = connection.headers.get("authorization", "").removeprefix("Bearer ")
    token = connection.headers.get(TOKEN_HEADER) or bearer
    if token:
        return _by_token(connection, services, token)
    cookie = connection.cookies.get(COOKIE)
    if cookie:
        grant = services.access.grant_of(cookie, ("browser",))
        if grant is not None:
            return grant
    user = connection.headers.get(params.remote_user_header, "") if params.remote_user_header else ""
    if user and connection.scope.get("halfmap.from_proxy"):
        role = Role.ADMIN if user in params.admins else Role.OPERATOR if user in params.operators else Role.VIEWER
        return Grant(id=f"user {user}", role=role, name=user, kind="user")
    return None


def _by_token(connection: HTTPConnection, services: Services, token: str) -> Grant | None:
    grant = services.access.grant_of(token, ("launch", "link"))
    if grant is None and not services.access.may_fail(address_of(connection)):
        raise _refusal(connection, 429, "Too many wrong tokens; wait a minute.")
    return grant


def address_of(connection: HTTPConnection) -> str:
    """Return the client's address, empty where it is not known."""
    return connection.client.host if connection.client else ""
