import pytest
from starlette.websockets import WebSocketDisconnect

from halfmap.errors import InputError
from halfmap.web.guard import MOST_BODY_BYTES
from halfmap.web.server import check_safety, hosts_of
from halfmap.web.settings import LiveParams


def test_a_forged_host_is_refused(server):
    assert server.client(host="evil.example").get("/api/v1/me").status_code == 421
    assert server.client(host="127.0.0.1:9999").get("/api/v1/me").status_code == 200
    assert server.client(host="[::1").get("/api/v1/me").status_code == 421


def test_commands_from_another_origin_are_refused(server):
    body = {"name": "x"}
    other = server.client(origin="http://evil.example").post("/api/v1/links", json=body)
    assert other.status_code == 403
    assert server.client(origin="http://127.0.0.1:1").post("/api/v1/links", json=body).status_code == 403
    assert server.client(origin="null").post("/api/v1/links", json=body).status_code == 403
    assert server.client(origin="http://127.0.0.1").post("/api/v1/links", json=body).status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/ws", "/websocket"])
def test_websockets_from_another_origin_are_refused(server, path):
    browser = server.browser()
    for headers in ({"origin": "http://evil.example"}, {}):
        with pytest.raises(WebSocketDisconnect), browser.websocket_connect(f"ws://127.0.0.1{path}", headers=headers):
            pass
    with browser.websocket_connect(f"ws://127.0.0.1{path}", headers={"origin": "http://127.0.0.1"}):
        pass


def test_oversized_bodies_are_refused_whether_announced_or_not(server):
    client = server.client(**{"content-type": "application/json"})
    assert client.post("/api/v1/links", content=b" " * (MOST_BODY_BYTES + 1)).status_code == 413
    assert client.post("/api/v1/links", content=b"{}", headers={"content-length": "x"}).status_code == 413

    def unannounced():
        for _ in range(20):
            yield b" " * 100_000

    assert client.post("/api/v1/links", content=unannounced()).status_code >= 400


def test_commands_that_are_no_json_are_refused(server):
    client = server.client()
    assert client.post("/api/v1/links", data={"name": "form"}).status_code == 415
    assert client.post("/api/v1/links", content=b'{"name": "x"}').status_code == 415


@pytest.mark.parametrize("path", ["/", "/health/live", "/api/v1/me", "/api/v1/nothing"])
def test_every_answer_carries_the_policy(server, path):
    headers = server.client().get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


def test_a_server_without_authentication_stays_on_this_machine():
    check_safety(LiveParams(auth=False, host="127.0.0.1"), is_root=False)
    check_safety(LiveParams(host="0.0.0.0"), is_root=False)
    with pytest.raises(InputError, match="must listen on this machine alone"):
        check_safety(LiveParams(auth=False, host="0.0.0.0"), is_root=False)
    check_safety(LiveParams(auth=False, host="0.0.0.0", force=True), is_root=False)


def test_a_server_does_not_run_as_root_unless_forced():
    with pytest.raises(InputError, match="must not run as root"):
        check_safety(LiveParams(), is_root=True)
    check_safety(LiveParams(force=True), is_root=True)


def test_wildcard_addresses_are_no_names_of_the_server():
    assert not {"0.0.0.0", "::"} & hosts_of(LiveParams(host="0.0.0.0"))
    assert "proxy.example" in hosts_of(LiveParams(allowed_host=("proxy.example",)))
