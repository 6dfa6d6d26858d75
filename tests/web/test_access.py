import json
import stat

import pytest
from fastapi import HTTPException

from halfmap.web.access import TOKEN_BYTES, Access, Role
from support.live_servers import a_server


def test_tokens_have_256_bits_and_only_their_hashes_are_kept(tmp_path):
    access = Access(tmp_path / "access.json")
    token, _ = access.give(Role.VIEWER, "screen")
    assert TOKEN_BYTES * 8 >= 192
    text = (tmp_path / "access.json").read_text()
    assert token not in text
    assert stat.S_IMODE((tmp_path / "access.json").stat().st_mode) == 0o600


def test_links_outlive_the_server_and_launch_tokens_do_not(tmp_path):
    access = Access(tmp_path / "access.json")
    launch, (link, grant) = access.launch(), access.give(Role.VIEWER, "screen")
    again = Access(tmp_path / "access.json")
    assert again.grant_of(launch, ("launch", "link")) is None
    assert again.grant_of(link, ("launch", "link")) == grant


def test_taking_back_a_link_logs_out_whoever_came_by_it(tmp_path):
    access = Access(tmp_path / "access.json")
    _, grant = access.give(Role.VIEWER, "screen")
    cookie = access.swap(grant)
    browser = access.grant_of(cookie, ("browser",))
    assert access.holds(browser)
    assert access.take_back(grant.id)
    assert access.grant_of(cookie, ("browser",)) is None
    assert not access.holds(browser)


def test_a_link_ends_after_its_time(tmp_path):
    access = Access(tmp_path / "access.json")
    token, _ = access.give(Role.VIEWER, "screen", seconds=1e-9)
    assert access.grant_of(token, ("link",)) is None


def test_a_token_in_the_address_becomes_a_cookie_and_leaves_the_address(server):
    answer = server.client("").get("/", params={"token": server.token})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    cookies = answer.headers.get_list("set-cookie")
    hidden = next(text for text in cookies if text.startswith("halfmap="))
    assert "HttpOnly" in hidden
    assert "samesite=strict" in hidden.lower()
    assert server.token not in "".join(cookies)


def test_a_token_in_the_address_of_the_api_counts_for_nothing(server):
    assert server.client("").get("/api/v1/me", params={"token": server.token}).status_code == 401


def test_a_browser_must_prove_that_its_page_asks(server):
    browser = server.browser()
    me = browser.get("/api/v1/me").json()
    assert me["role"] == "admin"
    refused = browser.post("/api/v1/links", json={"name": "screen"})
    assert refused.status_code == 403
    proof = browser.cookies["halfmap_csrf"]
    assert proof == me["csrf"]
    assert browser.post("/api/v1/links", json={"name": "x"}, headers={"x-halfmap-csrf": proof}).status_code == 200


def test_the_proof_of_one_browser_does_not_serve_another(server):
    one, other = server.browser(), server.browser()
    headers = {"x-halfmap-csrf": one.get("/api/v1/me").json()["csrf"]}
    assert other.post("/api/v1/links", json={"name": "x"}, headers=headers).status_code == 403


def test_a_read_only_link_reads_and_changes_nothing(server):
    made = server.client().post("/api/v1/links", json={"name": "wall"}).json()
    client = server.client(made["token"])
    assert client.get("/api/v1/sessions").status_code == 200
    assert client.post("/api/v1/sessions", json={"root": "data"}).status_code == 403
    assert server.client().delete(f"/api/v1/links/{made['id']}").status_code == 200
    assert client.get("/api/v1/sessions").status_code == 401


def test_after_ten_wrong_tokens_an_address_must_wait_before_it_guesses_on(server):
    client = server.client("wrong")
    codes = [client.get("/api/v1/me").status_code for _ in range(11)]
    assert codes == [401] * 10 + [429]
    assert client.post("/api/v1/login", json={"token": "wrong"}).status_code == 429
    assert server.client().get("/api/v1/me").status_code == 200  # a right one is heard all the same


def test_logging_out_ends_the_cookie(server):
    browser = server.browser()
    kept = browser.cookies["halfmap"]
    proof = browser.cookies["halfmap_csrf"]
    assert browser.post("/api/v1/logout", json={}, headers={"x-halfmap-csrf": proof}).status_code == 200
    browser.cookies.set("halfmap", kept)
    assert browser.get("/api/v1/me").status_code == 401


def test_a_proxy_names_users_only_where_it_is_trusted(tmp_path):
    params = {"remote_user_header": "X-Remote-User", "operators": ("ada",)}
    with a_server(tmp_path / "a", trusted_proxy=("testclient",), **params) as server:
        me = server.client("", **{"x-remote-user": "ada"}).get("/api/v1/me").json()
        assert (me["name"], me["role"]) == ("ada", "operator")
        assert server.client("", **{"x-remote-user": "bob"}).get("/api/v1/me").json()["role"] == "viewer"
    with a_server(tmp_path / "b", trusted_proxy=("10.0.0.1",), **params) as server:
        assert server.client("", **{"x-remote-user": "ada"}).get("/api/v1/me").status_code == 401


def test_without_authentication_commands_still_need_the_proof(tmp_path):
    with a_server(tmp_path, auth=False) as server:
        client = server.client("")
        proof = client.get("/api/v1/me").json()["csrf"]
        assert client.post("/api/v1/links", json={"name": "x"}).status_code == 403
        assert client.post("/api/v1/links", json={"name": "x"}, headers={"x-halfmap-csrf": proof}).status_code == 200


def test_who_did_what_is_written_down(server):
    server.client().post("/api/v1/links", json={"name": "wall"})
    server.client("").post("/api/v1/links", json={"name": "wall"})
    lines = [json.loads(line) for line in (server.services.work / "audit.jsonl").read_text().splitlines()]
    assert [(one["who"], one["what"], one["status"]) for one in lines] == [
        ("launch", "POST /api/v1/links", 200),
        ("nobody", "POST /api/v1/links", 401),
    ]


def test_micrographs_that_a_session_has_made_are_shown_wherever_its_folder_lies_but_tokens_are_not(tmp_path):
    work = tmp_path / "scratch"
    with a_server(tmp_path, work=work) as server:
        own = work / "s/raw/0001/motion/a.mrc"
        own.parent.mkdir(parents=True)
        own.touch()
        assert server.services.reachable(own) == own.resolve()
        with pytest.raises(HTTPException):
            server.services.reachable(work / "access.json")
        with pytest.raises(HTTPException):
            server.services.reachable(tmp_path / "scratch/../other.mrc")
