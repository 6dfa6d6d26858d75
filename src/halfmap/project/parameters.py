"""Parameters: what a frozen dataclass says about its fields, and the one door through which values enter it.

A field's help is the string below it; its unit is the suffix of its name; its bounds are the
`annotated_types` in its annotation. CLI, Python and web all come through `build`.
"""

import ast
import dataclasses
import inspect
import itertools
import math
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import annotated_types

from halfmap.errors import InputError
from halfmap.units import Length, split_unit

P = TypeVar("P")

_KINDS = {int: "integer", float: "number", str: "text", bool: "yes or no", Path: "path", Length: "length"}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The domain of a number: exclusive and inclusive limits, and what it must be a multiple of."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    multiple_of: float | None = None

    def in_words(self, unit: str = "") -> str:
        """Return the domain as ``≥ 2 px and even``; empty where there is none."""
        signs = ((">", self.gt), ("≥", self.ge), ("<", self.lt), ("≤", self.le))
        after = f" {unit}" if unit else ""
        parts = [f"{sign} {limit:g}{after}" for sign, limit in signs if limit is not None]
        if self.multiple_of == 2:
            parts.append("even")
        elif self.multiple_of not in (None, 1):
            parts.append(f"a multiple of {self.multiple_of:g}")
        return " and ".join(parts)

    def nearest(self, value: float) -> float | None:
        """Return a number inside that lies near ``value``, None where rounding and limits leave none at hand."""
        step = self.multiple_of or 1
        low = self.ge if self.ge is not None else self.gt + step if self.gt is not None else -math.inf
        high = self.le if self.le is not None else self.lt - step if self.lt is not None else math.inf
        if not math.isfinite(value):
            return None
        number = min(max(value, low), high)
        if self.multiple_of is not None:
            number = self.multiple_of * math.ceil(number / self.multiple_of)
        return number if self.contain(number) else None

    def contain(self, value: float) -> bool:
        """Whether a number lies inside. Not-a-number never does."""
        return not (
            math.isnan(value)
            or (self.gt is not None and not value > self.gt)
            or (self.ge is not None and not value >= self.ge)
            or (self.lt is not None and not value < self.lt)
            or (self.le is not None and not value <= self.le)
            or (self.multiple_of is not None and value % self.multiple_of != 0)
        )


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One field of a parameters class, as a flag or a form shows it.

    Parameters
    ----------
    name : the field's name; one that Python keeps for itself ends in ``_``.
    flag : the name on the command line, without unit suffix: ``--mask-diameter``.
    type : what a single value is: `int`, `float`, `str`, `bool`, `Path` or `Length`.
    length : how many values, for a tuple; 0 for any number of them; None for a single value.
    default : the value when none is given; None where `required`.
    bounds : the domain of each number.
    unit : symbol, empty where there is none.
    help : the string below the field.
    choices : the allowed words, empty where any is.
    required : whether a value must be given.
    optional : whether None is a value.
    """

    name: str
    flag: str
    type: type
    length: int | None
    default: Any
    bounds: Bounds
    unit: str
    help: str
    choices: tuple[str | int, ...]
    required: bool
    optional: bool

    @property
    def many(self) -> bool:
        """Whether any number of values may be given."""
        return self.length == 0

    @property
    def domain(self) -> str:
        """The allowed values in words: ``an integer ≥ 2 and even``."""
        if self.choices:
            return _one_of(self.choices)
        if self.type is bool:
            return "yes or no"
        limits = self.bounds.in_words("" if self.type is Length else self.unit)
        if self.type is Length:
            words = "a length in Å, or in pixels as 5px"
            text = f"{words}, {limits}" if limits else words
        else:
            kind = _KINDS[self.type]
            words = f"{'an' if kind == 'integer' else 'a'} {kind}"
            text = f"{words} {limits}" if limits else f"{words} in {self.unit}" if self.unit else words
        if self.length:
            return f"{self.length} values separated by commas, each {text}"
        return f"one or more values, each {text}" if self.many else text

    def written(self, value: Any) -> str:
        """Return a value in full, as the flag takes it back."""
        if isinstance(value, tuple):
            return ",".join(str(plain_value(item)) for item in value)
        return str(plain_value(value))

    def shown(self, value: Any) -> str:
        """Return a value for people to read, rounded."""
        if value is None:
            return "none"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, tuple | list):
            return (" " if self.many else ",").join(self.shown(item) for item in value)
        return f"{value:g}" if isinstance(value, float) else str(value)


def _one_of(words: tuple[str | int, ...]) -> str:
    names = [str(word) for word in words]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def parameters_of(cls: type) -> tuple[Parameter, ...]:
    """Return what a parameters class says about its fields.

    Parameters
    ----------
    cls : a frozen dataclass.

    Returns
    -------
    The fields of the class itself first, then those of its parents in the order of inheritance.

    Raises
    ------
    InputError
        A field has a type that no flag can carry.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    order: list[str] = []
    help_of: dict[str, str] = {}
    for parent in cls.__mro__:
        if dataclasses.is_dataclass(parent):
            own = [name for name in inspect.get_annotations(parent) if name in fields]
            order += [name for name in own if name not in order]
            help_of = _field_strings(parent) | help_of
    return tuple(_parameter(cls, fields[name], hints[name], help_of.get(name, "")) for name in order)


def _parameter(cls: type, field: "dataclasses.Field[Any]", hint: Any, text: str) -> Parameter:
    default = field.default if field.default is not MISSING else None
    if field.default_factory is not MISSING:
        default = field.default_factory()
    required = field.default is MISSING and field.default_factory is MISSING
    limits: dict[str, Any] = {}
    length: int | None = None
    hint, optional = _unwrap(hint, limits)
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        length = 0 if items[-1] is Ellipsis else len(items)
        kinds = {_unwrap(item, limits) for item in items if item is not Ellipsis}
        hint = kinds.pop()[0] if len(kinds) == 1 else hint
    choices: tuple[str | int, ...] = ()
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        hint = type(choices[0])
    if hint not in _KINDS:
        raise InputError(f"{cls.__name__}.{field.name} must be of a type that a flag can carry; got {hint!r}.")
    short, unit = split_unit(field.name)
    return Parameter(
        name=field.name,
        flag="--" + short.rstrip("_").replace("_", "-"),
        type=hint,
        length=length,
        default=default,
        bounds=Bounds(**limits),
        unit="Å or px" if hint is Length else unit,
        help=text,
        choices=choices,
        required=required,
        optional=optional,
    )


def _unwrap(hint: Any, limits: dict[str, Any]) -> tuple[Any, bool]:
    """Take `Annotated` and `| None` off a hint; collect the bounds met on the way."""
    optional = False
    while True:
        origin = typing.get_origin(hint)
        if origin is Annotated:
            hint, *extras = typing.get_args(hint)
            for extra in extras:
                _add_limits(extra, limits)
        elif origin in (typing.Union, types.UnionType):
            others = [item for item in typing.get_args(hint) if item is not type(None)]
            if len(others) > 1:
                return hint, optional
            optional = True
            hint = others[0]
        else:
            return hint, optional


def _add_limits(extra: Any, limits: dict[str, Any]) -> None:
    if isinstance(extra, annotated_types.Interval):
        for name in ("gt", "ge", "lt", "le"):
            if getattr(extra, name) is not None:
                limits[name] = getattr(extra, name)
    for kind, name in (
        (annotated_types.Gt, "gt"),
        (annotated_types.Ge, "ge"),
        (annotated_types.Lt, "lt"),
        (annotated_types.Le, "le"),
        (annotated_types.MultipleOf, "multiple_of"),
    ):
        if isinstance(extra, kind):
            limits[name] = getattr(extra, name)


@cache
def _field_strings(cls: type) -> dict[str, str]:
    """Return the string literal below each field, from the source of the class."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found = {}
    for statement, below in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[statement.target.id] = inspect.cleandoc(below.value.value)
    return found


def build(cls: type[P], values: Mapping[str, Any]) -> P:
    """Return the parameters made of values from a command line, a form, a file or Python.

    Parameters
    ----------
    cls : the parameters class.
    values : field name → value; texts are read as the field's type.

    Raises
    ------
    InputError
        One or more values are missing, unknown or outside their domain; all are named at once.
    """
    known = {parameter.name: parameter for parameter in parameters_of(cls)}
    complaints = [_unknown(name, known) for name in values if name not in known]
    ready: dict[str, Any] = {}
    for name, parameter in known.items():
        if name in values:
            try:
                ready[name] = _read(parameter, values[name])
            except InputError as error:
                complaints.append(str(error))
        elif parameter.required:
            complaints.append(f"`{parameter.flag}` must be given: {parameter.domain}.")
    if complaints:
        raise InputError(" ".join(complaints))
    return cls(**ready)


def _unknown(name: str, known: Mapping[str, Parameter]) -> str:
    spellings = {spelling: p for p in known.values() for spelling in (p.name, p.flag.lstrip("-"))}
    near = get_close_matches(name, spellings, n=1, cutoff=0.5) or get_close_matches(
        name.lstrip("-").replace("_", "-"), spellings, n=1, cutoff=0.5
    )
    if near:
        parameter = spellings[near[0]]
        return f"A parameter's name must be known; got `{name}`; did you mean `{parameter.name}` ({parameter.flag})?"
    return f"A parameter's name must be known; got `{name}`; use one of {', '.join(known)}."


def _read(parameter: Parameter, value: Any) -> Any:
    """Return one value of a parameter, of the parameter's own type and inside its domain."""
    if value is None or (parameter.optional and isinstance(value, str) and value.lower() == "none"):
        if parameter.optional or (parameter.default is None and not parameter.required):
            return None
        raise _outside(parameter, value)
    if parameter.length is None:
        return _read_one(parameter, value, value)
    items = value
    if isinstance(value, str):
        items = [value] if parameter.many and parameter.type is Path else value.split(",")
    elif isinstance(value, Path):
        items = [value]
    try:
        items = list(items)
    except TypeError:
        items = [items]
    if parameter.many and parameter.type is not Path:  # a flag given several times, each with one value or more
        items = [part for item in items for part in (item.split(",") if isinstance(item, str) else (item,))]
    if (parameter.length and len(items) != parameter.length) or (parameter.required and not items):
        raise _outside(parameter, value)
    return tuple(_read_one(parameter, item, value) for item in items)


def _read_one(parameter: Parameter, item: Any, whole: Any) -> Any:
    from pydantic import ValidationError

    if isinstance(item, str) and parameter.type not in (str, Path):
        item = item.strip()
    if isinstance(item, str) and parameter.type in (int, float):
        item = _without_its_unit(item, parameter.unit)
    try:
        if parameter.choices:
            matching = [choice for choice in parameter.choices if str(choice) == str(item)]
            if not matching:
                raise _outside(parameter, whole)
            return matching[0]
        value = Length.parse(item) if parameter.type is Length else _adapter(parameter.type).validate_python(item)
    except (ValidationError, InputError) as error:
        raise _outside(parameter, whole) from error
    number = value.value if isinstance(value, Length) else value
    if isinstance(number, int | float) and not isinstance(number, bool) and not parameter.bounds.contain(number):
        raise _outside(parameter, whole)
    if isinstance(item, bool) and parameter.type in (int, float):
        raise _outside(parameter, whole)
    return value


def _without_its_unit(text: str, unit: str) -> str:
    """Return a number's text without the unit that the parameter has anyway: ``130 Å`` or ``130A`` as ``130``."""
    for spelling in (unit, "A") if unit == "Å" else (unit,):
        if spelling and text.endswith(spelling):
            return text.removesuffix(spelling).rstrip()
    return text


def _outside(parameter: Parameter, value: Any) -> InputError:
    return InputError(
        f"`{parameter.flag}` must be {parameter.domain}; got {parameter.shown(value)}; {_remedy(parameter, value)}."
    )


def _remedy(parameter: Parameter, value: Any) -> str:
    unit = f" {parameter.unit}" if parameter.unit and parameter.type is not Length else ""
    near = _nearest(parameter, value)
    if near is not None:
        return f"give for example {near:g}{unit}"
    if parameter.required:
        return "give such a value"
    if parameter.default is None or parameter.default == ():
        return "give such a value or leave it out"
    return f"give such a value, or leave it out for {parameter.shown(parameter.default)}{unit}"


def _nearest(parameter: Parameter, value: Any) -> float | None:
    """Return an allowed number near one that is not, None where the value is no single number."""
    if parameter.type not in (int, float) or parameter.length is not None or parameter.choices:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if math.isfinite(number) and parameter.type is int:
        number = round(number)
    return parameter.bounds.nearest(number)


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def plain_value(value: Any) -> Any:
    """Return a parameter's value as a number, text or list, from which `build` reads it back."""
    if isinstance(value, tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, Length):
        return f"{value.value!r}px" if value.in_pixels else value.value
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float) and math.isinf(value):
        return repr(value)
    return value
