"""Every route declares who may call it, and keeps to it."""

import re

import pytest
from starlette.websockets import WebSocketDisconnect

from halfmap.web.access import Role
from halfmap.web.app import ROUTERS, declared_routes
from support.live_servers import a_server

ROUTES = declared_routes()
UNSAFE = {"POST", "PUT", "PATCH", "DELETE"}
OPEN = {
    "/", "/favicon.ico", "/static/{path}", "/health/live", "/health/ready", "/api/v1/login",
    "/api/v1/reports/{ticket}/{project}/{path}",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with a_server(tmp_path_factory.mktemp("server")) as found:
        yield found


def test_every_route_declares_one_permission(server):
    assert len(server.app.routes) == len(ROUTERS)  # none comes from elsewhere
    assert sum(len(router.routes) for _, router in ROUTERS) == len(ROUTES) > 40
    assert [path for path, _, demands in ROUTES if len(demands) != 1] == []


def test_nothing_but_pages_health_and_login_is_open_to_all():
    assert {path for path, _, demands in ROUTES if demands[0].role is None} == OPEN


def test_no_route_that_changes_anything_is_for_viewers():
    harmless = {"/api/v1/login", "/api/v1/logout", "/api/v1/sessions/{session}/thresholds"}
    low = {path for path, methods, demands in ROUTES if UNSAFE & methods and (demands[0].role or 0) < Role.OPERATOR}
    assert low == harmless


def asked(client, path, methods):
    method = next(iter(methods))
    url = re.sub(r"\{[^}]*\}", "1", path)
    return client.request(method, url, json={} if method in UNSAFE else None).status_code


def test_strangers_reach_no_route_that_demands_a_role(server):
    client = server.client("")
    for path, methods, demands in ROUTES:
        if methods and demands[0].role is not None:
            assert asked(client, path, methods) == 401, path


def test_viewers_reach_no_route_of_operators_and_operators_none_of_admins(server):
    for role, above in ((Role.VIEWER, Role.OPERATOR), (Role.OPERATOR, Role.ADMIN)):
        client = server.client(server.services.access.give(role, "x")[0])
        refused = [(path, methods) for path, methods, demands in ROUTES if (demands[0].role or 0) >= above]
        assert refused
        assert [path for path, methods in refused if asked(client, path, methods) != 403] == []


def test_strangers_open_no_websocket(server):
    for path in ("/api/v1/ws", "/websocket"):
        with pytest.raises(WebSocketDisconnect), server.client("").websocket_connect(path):
            pass
