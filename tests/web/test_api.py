"""Whatever is sent to the routes of the OpenAPI document, the server answers, and never with a failure of its own."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.live_servers import a_server

WORDS = st.sampled_from(
    ["data", "grid1", "project", ".", "..", "../..", "/etc/passwd", "1", "-1", "1e999", "nan", "", " ", "%00", "ä",
     "<b>", "Extract/job001", "extract", "relion", "x" * 2000,
     "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")]
)  # fmt: skip
TEXTS = WORDS | st.text(max_size=20)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e300, 1e300) | TEXTS
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
STREAMS = ("/api/v1/events",)
MAX_EXAMPLES = 250


@pytest.fixture(scope="module")
def server(tmp_path_factory, filled):
    with a_server(tmp_path_factory.mktemp("api")) as found:
        filled.copied(found.data / "grid1")
        client = found.client()
        found.identity = client.post("/api/v1/sessions", json={"root": "data", "path": "grid1"}).json()["id"]
        yield found


def operations(document):
    return [(path, method, entry) for path, entries in document["paths"].items() for method, entry in entries.items()]


def resolved(document, schema):
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def values_of(document, schema):
    """Values that a schema allows, roughly, for one of three, and anything for the others."""
    schema = resolved(document, schema)
    if "enum" in schema:
        right = st.sampled_from(schema["enum"])
    elif "anyOf" in schema:
        right = st.one_of([values_of(document, one) for one in schema["anyOf"]])
    else:
        kind = schema.get("type")
        right = {
            "integer": st.integers(schema.get("minimum", -100), min(schema.get("maximum", 100), 10**9)),
            "number": st.floats(0.1, 100),
            "boolean": st.booleans(),
            "string": TEXTS,
            "array": st.lists(st.integers(-1, 9), max_size=3),
            "object": st.dictionaries(TEXTS, SCALARS, max_size=3),
        }.get(kind, ANYTHING)
    return st.one_of(right, right, SCALARS)


def bodies_of(document, entry):
    if "requestBody" not in entry:
        return st.just({})
    schema = resolved(document, entry["requestBody"]["content"]["application/json"]["schema"])
    fields = {name: values_of(document, one) for name, one in schema["properties"].items()}
    needed = {name: fields.pop(name) for name in schema.get("required", [])}
    return st.one_of(st.fixed_dictionaries(needed, optional=fields), ANYTHING)


@settings(max_examples=MAX_EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_request_makes_the_server_fail(server, monkeypatch_popen, data):
    document = server.app.openapi()
    client = server.client()
    path, method, entry = data.draw(st.sampled_from([one for one in operations(document) if one[0] not in STREAMS]))
    query = {}
    for parameter in entry.get("parameters", []):
        drawn = data.draw(values_of(document, parameter["schema"]))
        if parameter["in"] == "path":
            known = server.identity if parameter["name"] == "session" else drawn
            path = path.replace(
                "{" + parameter["name"] + "}", quoted(data.draw(st.sampled_from([known, known, drawn])))
            )
        elif parameter["in"] == "query" and drawn is not None:
            query[parameter["name"]] = str(drawn)
    body = None if method in ("get", "delete") else data.draw(bodies_of(document, entry))
    if path.endswith(("/login", "/logout", server.identity)) and method in ("post", "delete"):
        return  # would end what the next requests need
    answer = client.request(method.upper(), path, params=query, json=body)
    assert answer.status_code < 500, (method, path, query, body, answer.text)
    assert answer.status_code not in (401, 403), (method, path)  # or nothing behind would be tried
    assert "Traceback" not in answer.text
    if answer.status_code >= 400:
        assert "detail" in answer.json()


def quoted(value):
    from urllib.parse import quote

    return quote(str(value), safe="", errors="replace") or "-"


@pytest.fixture(scope="module")
def monkeypatch_popen():
    """Let no job be started."""
    from halfmap.web import processes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes.JobProcesses, "start", lambda *given: {"job": None})
        yield


def test_the_document_and_its_page_list_every_route(server):
    document = server.client().get("/openapi.json").json()
    paths = {path for path, methods, _ in server.app.state.routes if methods and path.startswith("/api/")}
    assert paths - set(document["paths"]) == {"/api/v1/reports/{ticket}/{project}/{path}"}
    page = server.client().get("/docs").text
    assert all(path in page for path in document["paths"])
    assert "<script" not in page
