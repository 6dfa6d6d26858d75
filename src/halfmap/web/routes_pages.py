"""The page and what it loads; they hold no data and are open to everybody."""

import html
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from halfmap.web.permissions import Demand, identified, open_to_all, viewer
from halfmap.web.roots import confined
from halfmap.web.routes_access import cookie_path, give_proof, logged_in
from halfmap.web.services import services_of

STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

router = APIRouter(include_in_schema=False)


@router.get("/", dependencies=[open_to_all])
def page(request: Request, token: Annotated[str | None, Query(max_length=200)] = None) -> Response:
    """Return the page; a token in the address is swapped for a cookie and leaves it."""
    if token is not None:
        return logged_in(request, token, RedirectResponse(cookie_path(request), 303))
    response = FileResponse(STATIC / "index.html", media_type="text/html", headers={"cache-control": "no-cache"})
    grant = identified(request, services_of(request))
    if grant is not None and grant.is_ambient:
        give_proof(request, response, grant)
    return response


@router.get("/favicon.ico", dependencies=[open_to_all])
def icon() -> Response:
    """Return nothing: browsers ask for it unasked."""
    return Response(status_code=204)


@router.get("/static/{path:path}", dependencies=[open_to_all])
def static(path: str) -> Response:
    """Return a file that the page loads."""
    found = confined(STATIC, path)
    if not found.is_file():
        raise HTTPException(404, "There is no such file.")
    kind = _TYPES.get(found.suffix)
    return FileResponse(found, media_type=kind, headers={"cache-control": "no-cache"})


@router.get("/openapi.json", dependencies=[viewer])
def openapi(request: Request) -> Response:
    """Return the OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs", dependencies=[viewer])
def docs(request: Request) -> Response:
    """Return a page that lists what scripts may ask."""
    document = request.app.openapi()
    needed = {
        (method, path): _needed(demands) for path, methods, demands in request.app.state.routes for method in methods
    }
    rows = []
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            words = (method.upper(), path, needed.get((method.upper(), path), ""), entry.get("description", ""))
            rows.append("<tr>" + "".join(f"<td>{html.escape(str(word))}</td>" for word in words) + "</tr>")
    return HTMLResponse(
        "<!doctype html><html lang=en><meta charset=utf-8><title>halfmap live: API</title>"
        "<h1>API</h1><p>Scripts send their token in the header <code>X-Halfmap-Token</code>. "
        "The whole document: <a href=openapi.json>openapi.json</a>.</p>"
        "<table border=1 cellpadding=4><tr><th>Method<th>Path<th>Role<th>What it does</tr>"
        f"{''.join(rows)}</table></html>"
    )


def _needed(demands: list[Demand]) -> str:
    role = demands[0].role if demands else None
    return "anyone" if role is None else role.name.lower()
