"""Leopard-EM's configurations (YAML): what its programs are told, checked key by key."""

import importlib.resources
import math
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from halfmap.errors import FormatError
from halfmap.io.leopard_config_schema import REQUIRED, SCHEMAS, Block, Key, Program


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a block, of which plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the keys and values of a block."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key `{name}` twice, first in line {seen[name]}", problem_mark=key.start_mark
                )
            seen[name] = line
        return super().construct_mapping(node, deep)


_NEEDED_WHERE_ENABLED = ("cuton", "frequencies", "amplitudes")
_WORDS = {"number": "a number", "integer": "a whole number", "text": "text", "switch": "true or false"}


def read(path: str | Path, program: Program) -> dict[str, Any]:
    """Read a configuration.

    Parameters
    ----------
    path : the YAML file, of Leopard-EM 1.x.
    program : whose it is.

    Returns
    -------
    Block → key → value, complete: what the file leaves out has Leopard-EM's default. Lists are tuples; a block that
    may be missing altogether is None.

    Raises
    ------
    FormatError
        The file is no YAML, or a key is unknown or missing or has a value outside its domain. All of them are named,
        as ``block.key``, an unknown one beside the nearest that is known.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(path, expected="a readable YAML file", found=f"'{error}'") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise FormatError(
            path,
            line=None if mark is None else mark.line + 1,
            expected="YAML in which every key stands once",
            found=f"'{getattr(error, 'problem', None) or error}'",
            remedy="mend the line",
        ) from error
    complaints: list[str] = []
    values = _read_block(SCHEMAS[program], content, "", complaints)
    if complaints:
        raise FormatError(
            path,
            expected=f"a configuration of {program}",
            found="; ".join(complaints),
            remedy="mend the file, or write a new one with --write-config",
        )
    return values


def default_text(program: Program) -> str:
    """Return the commented configuration that ships with halfmap."""
    return importlib.resources.files("halfmap.io").joinpath(f"leopard_defaults/{program}.yaml").read_text("utf-8")


def offsets(block: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """Return the offsets that a block of ``name_min``, ``name_max`` and ``name_step`` asks for.

    Parameters
    ----------
    block : of `read`.
    name : ``defocus`` or ``pixel_size``.

    Returns
    -------
    Ascending, 0 among them unless ``skip_enforce_zero``; 0 alone where the block is not enabled.
    """
    if not block["enabled"]:
        return (0.0,)
    low, high, step = (float(block[f"{name}_{part}"]) for part in ("min", "max", "step"))
    n = math.ceil((high + step - low) / step - 1e-9) if step > 0 else 1
    values = [low + step * i for i in range(n)]
    if not block["skip_enforce_zero"] and not any(abs(value) < 1e-9 for value in values):
        values.append(0.0)
    return tuple(sorted(0.0 if abs(value) < 1e-9 else value for value in values))


def ends(block: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Return the first and the last of the steps that a block asks for, a zero between or beside them left aside.

    Parameters
    ----------
    block, name : as of `offsets`.
    """
    steps = offsets({**block, "skip_enforce_zero": True}, name)
    return steps[0], steps[-1]


def _read_block(block: Block, content: Any, place: str, complaints: list[str]) -> dict[str, Any]:
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        complaints.append(f"`{place or 'the file'}` must hold keys; got {content!r}")
        return {}
    values: dict[str, Any] = {}
    for name in content:
        if name not in block.keys:
            if block.open:
                values[str(name)] = content[name]
            else:
                complaints.append(_unknown(str(name), block, place))
    for name, entry in block.keys.items():
        where = f"{place}.{name}" if place else name
        if isinstance(entry, Key):
            values[name] = _read_key(entry, name, content, where, complaints)
        elif name not in content and entry.required:
            complaints.append(f"`{where}` is missing")
        elif content.get(name) is None and entry.null:
            values[name] = None
        elif entry.listed:
            values[name] = _read_list(entry, content[name], where, complaints)
        else:
            values[name] = _read_block(entry, content.get(name), where, complaints)
    _check_range(values, place, complaints)
    if values.get("enabled"):
        missing = [name for name in _NEEDED_WHERE_ENABLED if name in block.keys and values[name] is None]
        complaints += [f"`{place}.{name}` must be given where the block is enabled; got null" for name in missing]
    return values


def _read_list(block: Block, content: Any, place: str, complaints: list[str]) -> tuple[dict[str, Any], ...]:
    if not isinstance(content, list):
        complaints.append(f"`{place}` must be a list; got {content!r}")
        return ()
    return tuple(_read_block(block, item, f"{place}[{i}]", complaints) for i, item in enumerate(content))


def _unknown(name: str, block: Block, place: str) -> str:
    near = get_close_matches(name, block.keys, n=1, cutoff=0.5)
    said = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(block.keys)}"
    return f"`{place}.{name}` is unknown: {said}" if place else f"`{name}` is unknown: {said}"


def _read_key(key: Key, name: str, content: Mapping[str, Any], where: str, complaints: list[str]) -> Any:
    if name not in content:
        if key.default is REQUIRED:
            complaints.append(f"`{where}` is missing")
        return key.default
    value = content[name]
    if value is None and key.null:
        return None
    if key.length is None:
        return _read_value(key, value, where, complaints)
    if not isinstance(value, list) or (key.length and len(value) != key.length):
        wanted = f"a list of {key.length} values" if key.length else "a list"
        complaints.append(f"`{where}` must be {wanted}; got {value!r}")
        return None
    return tuple(_read_value(key, item, f"{where}[{i}]", complaints) for i, item in enumerate(value))


def _read_value(key: Key, value: Any, where: str, complaints: list[str]) -> Any:
    if key.kind == "any":
        return value
    read = _as_kind(key.kind, value)
    if read is None:
        complaints.append(f"`{where}` must be {_WORDS[key.kind]}; got {value!r}")
        return None
    if key.choices and read not in key.choices:
        near = get_close_matches(str(read), key.choices, n=1, cutoff=0.5)
        said = f"; did you mean {near[0]}?" if near else ""
        complaints.append(f"`{where}` must be one of {', '.join(key.choices)}; got {value!r}{said}")
    if key.kind in ("number", "integer"):
        limits = [f"≥ {key.low:g}"] if key.low > -math.inf and not read >= key.low else []
        limits += [f"≤ {key.high:g}"] if not read <= key.high else []
        limits += [f"> {key.above:g}"] if key.above > -math.inf and not read > key.above else []
        if limits or not math.isfinite(read):
            complaints.append(f"`{where}` must be {' and '.join(limits) or 'finite'}; got {value!r}")
    return read


def _as_kind(kind: str, value: Any) -> Any:
    """Return a value of the kind asked for, None where it is none. YAML reads 1e-3 as text, so numbers may be text."""
    if kind == "switch":
        return value if isinstance(value, bool) else None
    if kind == "text":
        return None if isinstance(value, bool | list | Mapping) or value is None else str(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if kind == "number":
        return number
    return int(number) if number.is_integer() else None


def _check_range(values: Mapping[str, Any], place: str, complaints: list[str]) -> None:
    """Complain of a range that ends before it begins, or of one without a step."""
    for name in ("defocus", "pixel_size"):
        numbers = [values.get(f"{name}_{part}") for part in ("min", "max", "step")]
        known = [number for number in numbers if isinstance(number, int | float)]
        if not values.get("enabled") or len(known) < 3:
            continue
        low, high, step = known
        if high < low:
            complaints.append(f"`{place}.{name}_max` must be ≥ {name}_min, {low:g}; got {high:g}")
        if not step > 0:
            complaints.append(f"`{place}.{name}_step` must be > 0 where the block is enabled; got {step:g}")
