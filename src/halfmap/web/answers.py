"""What routes answer: JSON as it comes, pictures, event streams, and refusals of one form."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi.responses import Response, StreamingResponse


class Picture(Response):
    """A PNG."""

    media_type = "image/png"


class EventStream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


_SENTENCE = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"description": meaning, "content": {"application/json": {"schema": _SENTENCE}}}
    for code, meaning in (("4XX", "Refused, and why"), (503, "Not possible now, and why"))
}


def as_json(value: Any) -> Response:
    """Return JSON without looking at every value twice, as models would."""
    return Response(json.dumps(value, ensure_ascii=False, allow_nan=False), media_type="application/json")


def sentence_of(errors: Sequence[Any]) -> str:
    """Return what is wrong with a request, of the errors that pydantic found in it."""
    found = [f"{'.'.join(str(part) for part in one['loc'][1:]) or 'the body'}: {one['msg']}" for one in errors]
    return f"The request must be as the API says; got {'; '.join(found)}; see /docs."
