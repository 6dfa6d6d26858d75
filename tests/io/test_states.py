"""A state that is saved and loaded is the same state, bit for bit."""

import dataclasses
import enum
import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from halfmap.errors import FormatError, InputError, ProjectError
from halfmap.grid import ImageGrid
from halfmap.io import states
from halfmap.units import Length


class Outcome(enum.Enum):
    CONVERGED = "converged"
    LIMIT = "iteration limit"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inner:
    values: Any
    grid: ImageGrid


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AState:
    content: Any
    derived: int = dataclasses.field(init=False, default=3)


class NoDataclass:
    pass


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        found, expected = (
            (torch.view_as_real(x) if x.is_complex() else x).contiguous() for x in (found, expected.detach())
        )
        if expected.numel():  # torch cannot view what is empty
            assert torch.equal(found.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tolist() == expected.tolist() if found.dtype == object else found.tobytes() == expected.tobytes()
    elif dataclasses.is_dataclass(expected):
        for field in dataclasses.fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name))
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, dict | MappingProxyType):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    else:
        assert found == expected or (math.isnan(found) and math.isnan(expected))


def through_a_file(tmp_path, content):
    states.save(tmp_path / "state.safetensors", AState(content=content))
    return states.load(tmp_path / "state.safetensors", AState).content


TENSOR_TYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.complex128,
]  # fmt: skip


@pytest.mark.parametrize("dtype", TENSOR_TYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (2, 0, 3)], ids=str)
def test_tensor_of_every_type_and_shape_comes_back(tmp_path, dtype, shape):
    values = np.random.default_rng(1).normal(size=shape) * 5
    tensor = torch.as_tensor(values).to(dtype)
    assert_same(through_a_file(tmp_path, tensor), tensor)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("shape", [(), (0,), (4, 3)], ids=str)
def test_array_of_every_type_and_shape_comes_back(tmp_path, dtype, shape):
    array = np.asarray(np.random.default_rng(1).integers(-99, 99, shape)).astype(dtype)
    if dtype == "u8" and array.size:
        array.flat[0] = 2**64 - 1
    assert_same(through_a_file(tmp_path, array), array)


def test_bits_of_nan_signed_zero_and_subnormals_come_back(tmp_path):
    odd = torch.tensor([0x7FC00001, -0x3FFFFF, -(2**31), 1], dtype=torch.int32).view(torch.float32)
    assert_same(through_a_file(tmp_path, odd), odd)
    assert_same(through_a_file(tmp_path, odd.numpy()), odd.numpy())


def test_views_that_share_memory_and_run_backwards_come_back(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    content = [base, base.T, base[1:, ::2], base.requires_grad_(), torch.complex(base, base).conj()]
    expected = [base.detach(), *content[1:3], base.detach(), content[4].resolve_conj()]
    assert_same(through_a_file(tmp_path, content), [part.detach() for part in expected])
    array = np.arange(24.0).reshape(4, 6)
    assert_same(through_a_file(tmp_path, array[::-1, ::2]), np.ascontiguousarray(array[::-1, ::2]))
    assert_same(through_a_file(tmp_path, array.astype(">f8")), array)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["1@a.mrcs", "", "Grüße 𝛑", "0012"]),
        np.array([["a", None], ["", "bc"]], dtype=object),
        np.array([], dtype="<U5"),
        np.array("one"),
        np.array(["x\udc80"]),
    ],
    ids=str,
)
def test_text_arrays_come_back(tmp_path, array):
    assert_same(through_a_file(tmp_path, array), array)


@pytest.mark.parametrize(
    "content",
    [
        None, True, 7, 2**80, -0.0, 0.1, math.inf, -math.inf, math.nan, 1e-320, 2 - 3j, "text with \n and \x00", "",
        b"", b"\x00\xff",
        Outcome.LIMIT, Path("Extract/job007"), np.float64(0.1), np.float32(0.1), np.int64(3), np.True_, (), [], {},
        (1, (2.5, "a"), [None, {}]), {"a": 1, 2: (3,), (1, 2): "pair", Outcome.LIMIT: torch.ones(2)},
        MappingProxyType({"defocus_u_angstrom": np.arange(3.0)}), {"kind": "tensor", "name": "trap"},
    ],
    ids=repr,
)  # fmt: skip
def test_plain_values_and_containers_come_back_with_their_types(tmp_path, content):
    assert_same(through_a_file(tmp_path, content), content)


def test_nested_dataclasses_come_back(tmp_path):
    grid = ImageGrid.cubic(4, 1.5)
    content = [Inner(values={"map": torch.ones(grid.shape), "edge": Length(5, in_pixels=True)}, grid=grid)] * 2
    assert_same(through_a_file(tmp_path, content), content)


def test_places_that_spell_alike_do_not_overwrite_each_other(tmp_path):
    content = {"a.b": torch.zeros(2), "a": {"b": torch.ones(2)}, 1: torch.ones(1), "1": torch.zeros(1)}
    assert_same(through_a_file(tmp_path, content), content)


def test_tensors_lie_under_their_place_for_other_programs(tmp_path):
    states.save(tmp_path / "a.safetensors", AState(content={"map": torch.ones(2)}))
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert file.get_tensor("content.map").tolist() == [1.0, 1.0]


def test_same_state_gives_the_same_bytes(tmp_path):
    state = AState(content={"b": torch.ones(2), "a": np.arange(3), "names": np.array(["x", "y"])})
    for name in "ab":
        states.save(tmp_path / name, state)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# what is wrong is said


@pytest.mark.parametrize("content", [NoDataclass(), {1, 2}, np.array([1, NoDataclass()]), np.array(["2020"], "M8[D]")])
def test_what_cannot_be_kept_is_named_by_its_place(tmp_path, content):
    with pytest.raises(InputError, match=r"'content\.part' must be"):
        states.save(tmp_path / "a", AState(content={"part": content}))
    with pytest.raises(InputError, match="instance of a dataclass"):
        states.save(tmp_path / "a", content)
    assert not list(tmp_path.iterdir())


def test_broken_foreign_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(InputError, match="no such file"):
        states.load(path, AState)
    states.save(path, AState(content=torch.ones(9)))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FormatError, match="broken"):
        states.load(path, AState)
    save_file({"x": torch.ones(2)}, path)
    with pytest.raises(FormatError, match="a file without one"):
        states.load(path, AState)


def rewritten(path, change):
    states.save(path, AState(content=Outcome.LIMIT))
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["halfmap_state"])
    change(content)
    save_file({}, path, metadata={"halfmap_state": json.dumps(content)})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "state format 1; found format 2"),
        (lambda c: c["state"].update({"class": "halfmap.grid:ImageGrid"}), "found a halfmap.grid:ImageGrid"),
        (lambda c: c["state"]["fields"].pop("content"), "the fields content of AState"),
        (lambda c: c["state"]["fields"]["content"].update({"class": "subprocess:Popen"}), "found subprocess:Popen"),
        (lambda c: c["state"]["fields"]["content"].update({"class": "halfmap.gone:Old"}), "found halfmap.gone:Old"),
        (lambda c: c["state"]["fields"].update(content={"kind": "tensor", "name": "x"}), "a tensor 'x'"),
    ],
)
def test_other_versions_classes_and_foreign_names_are_refused(tmp_path, change, message):
    with pytest.raises(FormatError, match=message):
        states.load(rewritten(tmp_path / "a", change), AState)


def test_a_full_disk_is_the_project_s_trouble_and_not_the_format_s(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(states, "save_file", full)
    with pytest.raises(ProjectError, match=r"x\.safetensors must be writable; got 'No space left on device'; free"):
        states.save(tmp_path / "x.safetensors", AState(content=1))
    assert list(tmp_path.iterdir()) == []
