"""Whatever is sent to the routes of the OpenAPI document, the answer is as the document says, and never a failure."""

import itertools
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from halfmap.sessions import course
from halfmap.web import processes
from support.live_servers import a_server
from support.live_sessions import ChildHere

HOSTILE = (
    ".", "..", "../..", "/etc/passwd", "grid1/../..", "-1", "1e999", "nan", "", " ", "%00", "ä", "<b>", "$(id)",
    "Extract/job001", "x" * 2000, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
)  # fmt: skip
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
LEFT_OUT = ("/events", "/login", "/logout", "delete")  # streams without an end, and what would end the session


@pytest.fixture(scope="module")
def server(tmp_path_factory, filled):
    """A server with a session, in which nothing is computed."""
    with a_server(tmp_path_factory.mktemp("api")) as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes.JobProcesses, "start", lambda *given: {"job": None})
        patch.setattr(course, "Child", type("Refuses", (ChildHere,), {"fails": "nothing is computed here"}))
        filled.copied(found.data / "grid1")
        session = found.client().post("/api/v1/sessions", json={"root": "data", "path": "grid1"}).json()["id"]
        found.known = {"session": session, "project": "project", "root": "data", "command": "extract"}
        yield found


def is_asked(path, method):
    return not path.endswith(LEFT_OUT) and method not in LEFT_OUT


def without_lifespan(app):
    """The application without the end of its life, which would close the sessions after each request."""

    async def serve(scope, receive, send):
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    return serve


def ask_as_documented(server, examples, modes):
    """Ask every route with what its description allows, or does not, and look at the answers."""
    schema = schemathesis.openapi.from_dict(server.app.openapi())
    schema.app = without_lifespan(server.guarded)
    asked = set()
    for found, mode in itertools.product(schema.get_all_operations(), modes):
        operation = found.ok()
        takes_anything = operation.definition.raw.get("parameters") or operation.body
        if not is_asked(operation.path, operation.method) or (mode.is_negative and not takes_anything):
            continue

        @settings(
            max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def one(case):
            known = {name: value for name, value in server.known.items() if name in case.path_parameters}
            case.path_parameters.update(known)  # or nothing behind would be tried
            answer = case.call(headers={"x-halfmap-token": server.token}, base_url="http://127.0.0.1")
            case.validate_response(answer, checks=CHECKS)
            assert "Traceback" not in answer.text
            asked.add((case.operation.path, answer.status_code // 100))

        one()
    return asked


def test_answers_are_as_the_document_says_whatever_is_asked(server):
    asked = ask_as_documented(server, 2, [GenerationMode.POSITIVE])
    assert len({path for path, kind in asked if kind == 2}) > 25  # not refusals alone


@pytest.mark.slow
def test_answers_are_as_the_document_says_whatever_is_asked_many_times(server):
    ask_as_documented(server, 10, GenerationMode)


def test_hostile_words_in_addresses_reach_nothing(server):
    client, words = server.client(), itertools.cycle(HOSTILE)
    for path, entries in server.app.openapi()["paths"].items():
        for method, entry in entries.items():
            for parameter in entry.get("parameters", []) if is_asked(path, method) else []:
                for word in itertools.islice(words, 5):
                    ask_with(client, server.known, path, method, parameter, word)


def ask_with(client, known, path, method, parameter, word):
    name = parameter["name"]
    values = known | ({name: word} if parameter["in"] == "path" else {})
    parts = path.split("{")
    filled = parts[0]
    for part in parts[1:]:
        key, rest = part.split("}", 1)
        filled += (quote(values.get(key, "1"), safe="") or "-") + rest
    query = {name: word} if parameter["in"] == "query" else {}
    answer = client.request(method.upper(), filled, params=query, json=None if method == "get" else {})
    assert answer.status_code < 500, (method, filled, query, answer.text)
    assert answer.status_code not in (401, 403), (method, filled)
    assert "root:x:" not in answer.text  # /etc/passwd begins so
    if answer.status_code >= 400:
        assert isinstance(answer.json()["detail"], str)


def test_the_document_and_its_page_list_every_route(server):
    document = server.client().get("/openapi.json").json()
    paths = {path for path, methods, _ in server.app.state.routes if methods and path.startswith("/api/")}
    assert paths - set(document["paths"]) == {"/api/v1/reports/{ticket}/{project}/{path}"}
    page = server.client().get("/docs").text
    assert all(path in page for path in document["paths"])
    assert "<script" not in page
