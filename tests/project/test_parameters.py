"""What parameters say about themselves, and the door that values pass."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from annotated_types import Ge, Gt, Interval, Lt
from hypothesis import given
from hypothesis import strategies as st

from halfmap.errors import InputError
from halfmap.project.options import RunOptions
from halfmap.project.parameters import build, parameters_of
from halfmap.project.parameters_json import schema, to_json
from halfmap.units import Length
from support.counting_job import CountingJobParams


def parameter(name: str):
    return next(p for p in parameters_of(CountingJobParams) if p.name == name)


def complaint(**values) -> str:
    with pytest.raises(InputError) as caught:
        build(CountingJobParams, {"numbers": "a.txt", **values})
    return str(caught.value)


def test_own_fields_come_before_inherited_ones():
    names = [p.name for p in parameters_of(CountingJobParams)]
    assert names[0] == "numbers"
    assert names.index("seed") < names.index("box_pixel") < names.index("shape")
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(CountingJobParams))


@pytest.mark.parametrize(
    ("name", "flag", "unit"),
    [
        ("box_pixel", "--box", "px"),
        ("recenter_angstrom", "--recenter", "Å"),
        ("step_seconds", "--step-seconds", ""),
        ("mask_diameter", "--mask-diameter", "Å or px"),
    ],
)
def test_a_flag_is_the_name_without_its_unit(name, flag, unit):
    assert (parameter(name).flag, parameter(name).unit) == (flag, unit)


def test_a_flag_may_be_a_word_that_python_keeps_for_itself():
    (made,) = parameters_of(dataclasses.make_dataclass("Made", [("from_", int, 1)], frozen=True, kw_only=True))
    assert (made.name, made.flag) == ("from_", "--from")


def test_help_is_the_string_below_the_field_also_where_it_is_inherited():
    assert parameter("numbers").help == "File of numbers."
    assert parameter("box_pixel").help == "Side of the box."


def test_every_run_option_has_help():
    assert all(p.help for p in parameters_of(RunOptions))


def test_bounds_and_choices_are_read_from_annotations():
    assert parameter("box_pixel").bounds.in_words("px") == "≥ 2 px and even"
    assert parameter("mask_diameter").bounds.in_words() == "> 0"
    assert parameter("shape").choices == ("disc", "square")
    assert parameter("numbers").required
    assert not parameter("extra").required


def test_bounds_of_the_items_of_a_tuple_and_intervals_are_read():
    @dataclass(frozen=True, kw_only=True)
    class Ranges:
        angles_degrees: tuple[Annotated[float, Interval(ge=-180, lt=180)], float] = (0.0, 0.0)

    (angles,) = parameters_of(Ranges)
    assert angles.bounds.in_words(angles.unit) == "≥ -180 ° and < 180 °"
    with pytest.raises(InputError, match="`--angles` must be 2 values"):
        build(Ranges, {"angles_degrees": "180,0"})


@pytest.mark.parametrize("kind", [dict, int | str, tuple[int, float], list[int]])
def test_a_type_that_no_flag_can_carry_is_refused(kind):
    odd = dataclasses.make_dataclass("Odd", [("table", kind)], frozen=True, kw_only=True)
    with pytest.raises(InputError, match=r"Odd\.table must be of a type that a flag can carry"):
        parameters_of(odd)


def test_texts_are_read_as_the_field_s_type():
    params = build(
        CountingJobParams,
        {
            "numbers": "a.txt",
            "extra": ["b.txt", "c.txt"],
            "box_pixel": "64",
            "mask_diameter": "5px",
            "recenter_angstrom": "-1, 2,3.5",
            "invert": "no",
            "amplitude": "1e-1",
        },
    )
    assert params.numbers == Path("a.txt")
    assert params.extra == (Path("b.txt"), Path("c.txt"))
    assert params.box_pixel == 64
    assert params.mask_diameter == Length(5.0, in_pixels=True)
    assert params.recenter_angstrom == (-1.0, 2.0, 3.5)
    assert params.invert is False
    assert params.amplitude == 0.1


@pytest.mark.parametrize("length", ["130", "130A", "130Å", "130 Å"])
@pytest.mark.parametrize("box", ["64", "64px", "64 px"])
def test_a_number_may_carry_its_own_unit(length, box):
    params = build(CountingJobParams, {"numbers": "a.txt", "box_pixel": box, "recenter_angstrom": f"{length},1A,-2"})
    assert (params.box_pixel, params.recenter_angstrom) == (64, (130.0, 1.0, -2.0))


@pytest.mark.parametrize("given_values", ["1.5,2", ["1.5,2"], ["1.5", "2"], [1.5, 2.0]])
def test_many_numbers_may_share_a_flag_or_repeat_it(given_values):
    @dataclass(frozen=True, kw_only=True)
    class Sizes:
        pixel_sizes_angstrom: tuple[float, ...] = ()
        """Pixel sizes."""

    assert build(Sizes, {"pixel_sizes_angstrom": given_values}).pixel_sizes_angstrom == (1.5, 2.0)


def test_a_list_that_is_empty_by_default_may_be_left_out():
    @dataclass(frozen=True, kw_only=True)
    class Chosen:
        classes: tuple[Annotated[int, Ge(1)], ...] = ()
        """Numbers."""

    with pytest.raises(InputError, match=r"`--classes` must be .*; got 0; give such a value or leave it out\.$"):
        build(Chosen, {"classes": "0"})


def test_a_path_with_a_comma_is_one_path():
    assert build(CountingJobParams, {"numbers": "a,b.txt", "extra": "c,d.txt"}).extra == (Path("c,d.txt"),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"box_pixel": 97}, "`--box` must be an integer ≥ 2 px and even; got 97; give for example 98 px."),
        ({"box_pixel": 0}, "`--box` must be an integer ≥ 2 px and even; got 0; give for example 2 px."),
        ({"box_pixel": "big"}, "got big; give such a value, or leave it out for 256 px."),
        ({"box_pixel": 64.5}, "`--box` must be an integer"),
        ({"box_pixel": "64A"}, "`--box` must be an integer"),
        ({"recenter_angstrom": "1px,2,3"}, "each a number in Å; got 1px,2,3"),
        ({"amplitude": "0.1A"}, "`--amplitude` must be a number"),
        ({"box_pixel": True}, "`--box` must be an integer"),
        ({"amplitude": 7}, "`--amplitude` must be a number ≥ 0 and ≤ 1; got 7; give for example 1."),
        ({"amplitude": "nan"}, "`--amplitude` must be a number ≥ 0 and ≤ 1; got nan"),
        ({"amplitude": None}, "`--amplitude` must be a number"),
        ({"mask_diameter": "-5px"}, "`--mask-diameter` must be a length in Å, or in pixels as 5px, > 0; got -5px"),
        ({"mask_diameter": "wide"}, "got wide; give such a value or leave it out."),
        ({"shape": "cube"}, "`--shape` must be disc or square; got cube"),
        (
            {"recenter_angstrom": "1,2"},
            "`--recenter` must be 3 values separated by commas, each a number in Å; got 1,2",
        ),
        ({"recenter_angstrom": "1,2,x"}, "got 1,2,x"),
        ({"invert": "perhaps"}, "`--invert` must be yes or no; got perhaps"),
        ({"numbers": 3}, "`--numbers` must be a path; got 3"),
        ({"boxx": 3}, "got `boxx`; did you mean `box_pixel` (--box)?"),
        ({"mask-diametre": 3}, "did you mean `mask_diameter` (--mask-diameter)?"),
        ({"zzzzzz": 3}, "got `zzzzzz`; use one of numbers, extra"),
        ({"shape": "square", "mask_diameter": 5}, "--mask-diameter must go with --shape disc"),
    ],
)
def test_a_value_outside_its_domain_is_named_with_flag_unit_and_remedy(values, message):
    assert message in complaint(**values)


def test_all_complaints_come_at_once():
    with pytest.raises(InputError) as caught:
        build(CountingJobParams, {"box_pixel": 3, "shape": "cube", "colour": "red"})
    for flag in ("`--numbers` must be given", "`--box`", "`--shape`", "`colour`"):
        assert flag in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_numbers_survive_the_way_to_json_and_back(value):
    @dataclass(frozen=True, kw_only=True)
    class Limits:
        resolution_angstrom: float = 0.0

    stored = json.loads(json.dumps(to_json(Limits(resolution_angstrom=value)), allow_nan=False))
    assert build(Limits, stored).resolution_angstrom == value


lengths = st.builds(Length, st.floats(min_value=1e-6, max_value=1e6), st.booleans())
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    box=st.integers(1, 10**9).map(lambda n: 2 * n),
    mask=st.none() | lengths,
    amplitude=st.floats(0, 1),
    recenter=st.none() | st.tuples(numbers, numbers, numbers),
    extra=st.lists(st.text("abc,. é", min_size=1).map(Path), max_size=3).map(tuple),
    invert=st.booleans(),
)
def test_json_gives_back_equal_parameters(box, mask, amplitude, recenter, extra, invert):
    params = CountingJobParams(
        numbers=Path("in.txt"),
        extra=extra,
        box_pixel=box,
        mask_diameter=mask,
        amplitude=amplitude,
        recenter_angstrom=recenter,
        invert=invert,
    )
    assert build(CountingJobParams, json.loads(json.dumps(to_json(params)))) == params


def test_the_schema_holds_bounds_units_help_and_defaults():
    described = schema(CountingJobParams)
    box = described["properties"]["box_pixel"]
    assert (box["type"], box["minimum"], box["multipleOf"], box["default"]) == ("integer", 2, 2, 256)
    assert (box["unit"], box["description"], box["flag"]) == ("px", "Side of the box.", "--box")
    assert described["properties"]["shape"]["enum"] == ["disc", "square"]
    assert described["properties"]["recenter_angstrom"]["anyOf"][0]["maxItems"] == 3
    assert described["required"] == ["numbers"]
    json.dumps(described, allow_nan=False)


def test_exclusive_bounds_are_exclusive():
    @dataclass(frozen=True, kw_only=True)
    class Open:
        share: Annotated[float, Gt(0), Lt(1)] = 0.5
        count: Annotated[int, Ge(1)] = 1

    for value in (0, 1, math.nan):
        with pytest.raises(InputError, match="--share"):
            build(Open, {"share": value})
    assert build(Open, {"share": 0.999, "count": 1}).count == 1


def test_run_options_read_relion_s_devices_and_memory():
    assert build(RunOptions, {"devices": "0:1"}).devices == "0:1"
    assert build(RunOptions, {"memory": "16GiB"}).memory_bytes == 16 << 30
    with pytest.raises(InputError, match="--devices"):
        build(RunOptions, {"devices": "gpu"})
    with pytest.raises(InputError, match="Memory must be"):
        build(RunOptions, {"memory": "much"})
