"""Maps of a project: facts, surfaces and slices."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from halfmap.jobs import map_view
from halfmap.web.answers import Picture, as_json
from halfmap.web.permissions import viewer
from halfmap.web.services import services_of

router = APIRouter(prefix="/projects/{project}/maps")

Project = Annotated[str, Path(max_length=100)]
File = Annotated[str, Path(max_length=1000)]


@router.get("/{path:path}/facts", dependencies=[viewer])
def facts(request: Request, project: Project, path: File) -> dict[str, Any]:
    """Return sides, voxel size, statistics and a usual level of a map."""
    return map_view.facts(services_of(request).reach(project, path))


@router.get("/{path:path}/mesh", dependencies=[viewer])
def mesh(
    request: Request, project: Project, path: File, level: Annotated[float | None, Query(allow_inf_nan=False)] = None
) -> Response:
    """Return a map's surface: ``vertices`` x, y, z, x, … in Å from its centre, ``triangles`` by number of vertex, and
    ``level``, ``mean``, ``deviation``, ``minimum`` and ``maximum`` of its values.
    """
    found = map_view.surface(services_of(request).reach(project, path), level)
    vertices = found["vertices"].round(2).ravel().astype(float).tolist()
    numbers = {"vertices": [round(value, 2) for value in vertices], "triangles": found["triangles"].ravel().tolist()}
    return as_json({**found, **numbers})


@router.get("/{path:path}/slices.png", dependencies=[viewer], response_class=Picture)
def slices(request: Request, project: Project, path: File) -> Response:
    """Return a picture: above central slices across z, y and x, below projections along them."""
    picture = map_view.slices(services_of(request).reach(project, path))
    return Picture(picture.data)
