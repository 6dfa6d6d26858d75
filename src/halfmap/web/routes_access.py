"""Logging in and out, and links for others."""

import time
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from halfmap.web.access import BROWSER_SECONDS, Grant, Role
from halfmap.web.permissions import COOKIE, PROOF_COOKIE, address_of, admin, open_to_all, viewer
from halfmap.web.services import services_of

router = APIRouter()
ResponseType = TypeVar("ResponseType", bound=Response)


class Login(BaseModel):
    """A token."""

    model_config = ConfigDict(extra="forbid")
    token: Annotated[str, Field(max_length=200)]


class Link(BaseModel):
    """What a link allows, for whom, and for how long."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["viewer", "operator", "admin"] = "viewer"
    name: Annotated[str, Field(min_length=1, max_length=80)] = "link"
    hours: Annotated[float, Field(ge=0, le=24 * 366)] = 0.0


def logged_in(request: Request, token: str, response: ResponseType) -> ResponseType:
    """Give a response the cookie that a token is swapped for.

    Raises
    ------
    HTTPException
        401: the token is wrong; 429: many were.
    """
    services = services_of(request)
    grant = services.access.grant_of(token, ("launch", "link"))
    if grant is None:
        if not services.access.may_fail(address_of(request)):
            raise HTTPException(429, "Too many wrong tokens; wait a minute.")
        raise HTTPException(401, "The token is wrong or has ended; take the address that halfmap live printed.")
    secret = services.access.swap(grant)
    browser = services.access.grant_of(secret, ("browser",))
    if browser is not None:
        _set_cookie(request, response, COOKIE, secret, is_hidden=True)
        give_proof(request, response, browser)
    return response


def give_proof(request: Request, response: Response, grant: Grant) -> None:
    """Give the page what it must send along with commands, which pages of other origins cannot read."""
    _set_cookie(request, response, PROOF_COOKIE, services_of(request).access.proof(grant), is_hidden=False)


def cookie_path(request: Request) -> str:
    """Return the path below which cookies hold."""
    return str(request.scope.get("root_path", "")) + "/"


def _set_cookie(request: Request, response: Response, name: str, value: str, *, is_hidden: bool) -> None:
    response.set_cookie(
        name,
        value,
        max_age=int(BROWSER_SECONDS),
        path=cookie_path(request),
        httponly=is_hidden,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


@router.post("/login", dependencies=[open_to_all])
def login(request: Request, given: Login) -> Response:
    """Swap a token for a cookie."""
    return logged_in(request, given.token, JSONResponse({"logged_in": True}))


@router.post("/logout", dependencies=[viewer])
def logout(request: Request) -> Response:
    """End this browser's right."""
    services = services_of(request)
    if request.state.grant.kind == "browser":
        services.access.take_back(request.state.grant.id)
    response = JSONResponse({"logged_in": False})
    for name in (COOKIE, PROOF_COOKIE):
        response.delete_cookie(name, path=cookie_path(request))
    return response


@router.get("/me", dependencies=[viewer])
def me(request: Request) -> dict[str, Any]:
    """Return who asks, what they may do, and the value of X-Halfmap-CSRF that commands of a browser must carry;
    ``seq`` is the number of the last event.
    """
    services = services_of(request)
    grant = request.state.grant
    return {
        "name": grant.name,
        "role": grant.role.name.lower(),
        "csrf": services.access.proof(grant),
        "seq": services.hub.sequence,
        "microscope": services.params.microscope_name,
        "project": next(iter(services.projects.folders)),
        "projects": [{"id": name, "name": name} for name in services.projects.folders],
    }


@router.get("/links", dependencies=[admin])
def links(request: Request) -> dict[str, Any]:
    """Return the links that hold; not their tokens, which nobody knows any more."""
    found = services_of(request).access.links()
    return {
        "links": [
            {"id": one.id, "name": one.name, "role": one.role.name.lower(), "expires": one.expires or None}
            for one in found
        ]
    }


@router.post("/links", dependencies=[admin])
def give_link(request: Request, asked: Link) -> dict[str, Any]:
    """Make a link; its token is shown this once."""
    token, grant = services_of(request).access.give(Role[asked.role.upper()], asked.name, seconds=asked.hours * 3600)
    base = str(request.base_url).rstrip("/")
    return {
        "id": grant.id,
        "role": asked.role,
        "url": f"{base}/?token={token}",
        "token": token,
        "seconds_left": round(grant.expires - time.time()) if grant.expires else None,
    }


@router.delete("/links/{link}", dependencies=[admin])
def take_back_link(request: Request, link: str) -> dict[str, Any]:
    """Take a link back, and log out whoever came by it."""
    if not link.startswith("link-") or not services_of(request).access.take_back(link):
        raise HTTPException(404, "There is no such link.")
    return {"taken_back": link}
