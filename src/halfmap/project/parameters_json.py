"""Parameters as JSON: the values of a job, and the schema from which a form is drawn."""

import inspect
from typing import Any

from halfmap.project.parameters import Parameter, parameters_of, plain_value
from halfmap.units import Length


def to_json(params: Any) -> dict[str, Any]:
    """Return parameters as values that JSON holds; `build` reads them back."""
    return {parameter.name: plain_value(getattr(params, parameter.name)) for parameter in parameters_of(type(params))}


def schema(cls: type) -> dict[str, Any]:
    """Return the JSON schema of a parameters class, for a form: types, bounds, defaults, units and help."""
    properties = {}
    for parameter in parameters_of(cls):
        entry = _value_schema(parameter)
        if parameter.length is not None:
            entry = {"type": "array", "items": entry}
            if parameter.length:
                entry |= {"minItems": parameter.length, "maxItems": parameter.length}
        if parameter.optional:
            entry = {"anyOf": [entry, {"type": "null"}]}
        entry |= {"title": parameter.flag.lstrip("-").replace("-", " "), "description": parameter.help}
        entry |= {"flag": parameter.flag, "unit": parameter.unit}
        if not parameter.required:
            entry["default"] = plain_value(parameter.default)
        properties[parameter.name] = entry
    required = [parameter.name for parameter in parameters_of(cls) if parameter.required]
    return {
        "title": cls.__name__,
        "description": inspect.getdoc(cls) or "",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _value_schema(parameter: Parameter) -> dict[str, Any]:
    from pydantic import TypeAdapter

    if parameter.choices:
        return {"enum": list(parameter.choices)}
    if parameter.type is Length:
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*[-+.\deE]+\s*(px|A|Å)?\s*$"}]}
    entry: dict[str, Any] = dict(TypeAdapter(parameter.type).json_schema())
    bounds = parameter.bounds
    for key, limit in (
        ("exclusiveMinimum", bounds.gt),
        ("minimum", bounds.ge),
        ("exclusiveMaximum", bounds.lt),
        ("maximum", bounds.le),
        ("multipleOf", bounds.multiple_of),
    ):
        if limit is not None:
            entry[key] = limit
    return entry
