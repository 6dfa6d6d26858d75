"""States of steps in safetensors files: any frozen dataclass, bit for bit, and nothing that executes."""

import dataclasses
import enum
import importlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from halfmap.errors import FormatError, InputError
from halfmap.io.atomic import replacing

FORMAT_VERSION = 1
_METADATA_KEY = "halfmap_state"
_ABSENT = -1
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How safetensors, written in Rust, says what the system refused: no errno survives on its way to Python."""

State = TypeVar("State")


def save(path: str | Path, state: Any) -> None:
    """Write a dataclass to one safetensors file; by rename when complete.

    Fields may hold tensors and arrays of any number type, arrays of text, numbers, text, bytes, paths, None, enum
    members, other dataclasses, and tuples, lists and mappings of these. Each array is a tensor of the file under
    its place in the state; all else is JSON in the file's metadata. Tensors are kept as on the CPU.

    Parameters
    ----------
    path : the file, by custom ``.safetensors``.
    state : an instance of a dataclass.

    Raises
    ------
    InputError
        The state, or something in it, is of a type that cannot be kept.
    ProjectError
        The file cannot be written.
    """
    if not dataclasses.is_dataclass(state) or isinstance(state, type):
        raise InputError(f"A state must be an instance of a dataclass; got {type(state).__name__}.")
    tensors: dict[str, Tensor] = {}
    tree = _Encoder(tensors).encode(state, "")
    text = json.dumps({"format": FORMAT_VERSION, "state": tree}, ensure_ascii=False)
    with replacing(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata={_METADATA_KEY: text})
        except SafetensorError as error:
            number = _OS_ERROR.search(str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(temporary)) from error


def load(path: str | Path, cls: type[State]) -> State:
    """Read a dataclass that `save` has written.

    Parameters
    ----------
    path : the file.
    cls : the class that the file must hold.

    Returns
    -------
    An equal instance of ``cls``: same bits in every array, same types everywhere; tensors on the CPU.

    Raises
    ------
    InputError
        There is no such file.
    FormatError
        The file is broken, holds another class, or was written by another version of the format or class.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} must be a saved state; got no such file; check the path.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise FormatError(
            path, expected="a safetensors file", found=f"a broken one ({error})", remedy="take an earlier state"
        ) from error
    if _METADATA_KEY not in metadata:
        raise FormatError(path, expected="a state of halfmap", found="a file without one", remedy="check the path")
    content = json.loads(metadata[_METADATA_KEY])
    if content["format"] != FORMAT_VERSION:
        raise FormatError(
            path,
            expected=f"state format {FORMAT_VERSION}",
            found=f"format {content['format']}",
            remedy="read it with the version of halfmap that wrote it, named in the job's job.json",
        )
    if content["state"]["class"] != _class_name(cls):
        raise FormatError(
            path,
            expected=f"a {_class_name(cls)}",
            found=f"a {content['state']['class']}",
            remedy="give the state of the job that is meant",
        )
    state: State = _Decoder(path, tensors, cls.__module__).decode(content["state"])
    return state


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """Turns values into JSON, and moves arrays into ``tensors`` under their place."""

    tensors: dict[str, Tensor]

    def encode(self, value: Any, place: str) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"kind": "float", "text": repr(value)}
        if type(value) is complex:
            return {"kind": "complex", "text": repr(value)}
        if isinstance(value, enum.Enum):
            return {"kind": "enum", "class": _class_name(type(value)), "name": value.name}
        if isinstance(value, Tensor):
            return {"kind": "tensor", **self._numbers(value.detach().cpu(), place)}
        if isinstance(value, np.ndarray):
            return self._array(value, place)
        if isinstance(value, np.generic):
            return {"kind": "scalar", "of": self._array(np.asarray(value), place)}
        if type(value) is bytes:
            raw = np.frombuffer(value, dtype=np.uint8).copy()
            return {"kind": "bytes", **self._numbers(torch.from_numpy(raw), place)}
        if isinstance(value, PurePath):
            return {"kind": "path", "text": str(value)}
        if type(value) in (list, tuple):
            items = [self.encode(item, f"{place}.{number}") for number, item in enumerate(value)]
            return {"kind": type(value).__name__, "items": items}
        if type(value) in (dict, MappingProxyType):
            pairs = [
                [self.encode(key, f"{place}.key{number}"), self.encode(item, f"{place}.{key}")]
                for number, (key, item) in enumerate(value.items())
            ]
            return {"kind": "dict" if type(value) is dict else "read-only dict", "pairs": pairs}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            prefix = f"{place}." if place else ""
            fields = {
                field.name: self.encode(getattr(value, field.name), prefix + field.name)
                for field in dataclasses.fields(value)
                if field.init
            }
            return {"kind": "dataclass", "class": _class_name(type(value)), "fields": fields}
        raise InputError(
            f"The state's {place!r} must be a tensor, array, number, text, bytes, path, enum, dataclass, or a "
            f"tuple, list or mapping of these; got {type(value).__name__}."
        )

    def _array(self, array: NDArray[Any], place: str) -> dict[str, Any]:
        if array.dtype.kind in "UO":
            return {"kind": "text array", **self._text(array, place)}
        native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        if native.dtype.kind not in "biufc" or native.dtype.itemsize > 16:
            raise InputError(f"The state's {place!r} must be an array of numbers or text; got {array.dtype}.")
        if native.dtype.kind == "u" and native.dtype.itemsize > 1:
            signed = torch.from_numpy(native.view(f"i{native.dtype.itemsize}"))
            return {"kind": "array", "seen_as": native.dtype.name, **self._numbers(signed, place)}
        return {"kind": "array", **self._numbers(torch.from_numpy(native), place)}

    def _numbers(self, tensor: Tensor, place: str) -> dict[str, Any]:
        """Store a tensor; complex ones as pairs of real numbers."""
        name = place
        while name in self.tensors:
            name += "'"
        is_complex = tensor.is_complex()
        real = torch.view_as_real(tensor.resolve_conj()) if is_complex else tensor.resolve_neg()
        self.tensors[name] = real.clone(memory_format=torch.contiguous_format)
        return {"name": name, "complex": True} if is_complex else {"name": name}

    def _text(self, array: NDArray[Any], place: str) -> dict[str, Any]:
        """Store text as its UTF-8 bytes and the length of each piece; `_ABSENT` where an object array holds None."""
        pieces = [None if item is None else item for item in array.ravel().tolist()]
        strangers = [item for item in pieces if item is not None and not isinstance(item, str)]
        if strangers:
            raise InputError(
                f"The state's {place!r} must be an array of numbers or text; got a {type(strangers[0]).__name__} in it."
            )
        encoded = [b"" if item is None else item.encode("utf-8", "surrogatepass") for item in pieces]
        lengths = [_ABSENT if item is None else len(raw) for item, raw in zip(pieces, encoded, strict=True)]
        raw = np.frombuffer(b"".join(encoded), dtype=np.uint8).copy()
        return {
            "dtype": "object" if array.dtype.kind == "O" else array.dtype.newbyteorder("=").str,
            "bytes": self._numbers(torch.from_numpy(raw), f"{place}.bytes"),
            "lengths": self._numbers(
                torch.from_numpy(np.array(lengths, dtype=np.int64).reshape(array.shape)), f"{place}.lengths"
            ),
        }


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """Turns JSON and ``tensors`` back into values."""

    path: Path
    tensors: Mapping[str, Tensor]
    module: str

    def decode(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kind = value["kind"]
        if kind == "float":
            return float(value["text"])
        if kind == "complex":
            return complex(value["text"])
        if kind == "path":
            return Path(value["text"])
        if kind == "enum":
            return self._class(value["class"])[value["name"]]
        if kind == "tensor":
            return self._tensor(value)
        if kind == "bytes":
            return self._tensor(value).numpy().tobytes()
        if kind == "array":
            array = self._tensor(value).numpy()
            return array.view(value["seen_as"]) if "seen_as" in value else array
        if kind == "text array":
            return self._text(value)
        if kind == "scalar":
            return self.decode(value["of"])[()]
        if kind in ("list", "tuple"):
            items = [self.decode(item) for item in value["items"]]
            return items if kind == "list" else tuple(items)
        if kind in ("dict", "read-only dict"):
            pairs = {self.decode(key): self.decode(item) for key, item in value["pairs"]}
            return pairs if kind == "dict" else MappingProxyType(pairs)
        return self._dataclass(value)

    def _tensor(self, value: Mapping[str, Any]) -> Tensor:
        if value["name"] not in self.tensors:
            raise FormatError(self.path, expected=f"a tensor {value['name']!r}", found="none of that name")
        tensor = self.tensors[value["name"]]
        return torch.view_as_complex(tensor) if value.get("complex") else tensor

    def _text(self, value: Mapping[str, Any]) -> NDArray[Any]:
        lengths = self._tensor(value["lengths"]).numpy()
        raw = self._tensor(value["bytes"]).numpy().tobytes()
        texts = np.empty(lengths.size, dtype=object)
        position = 0
        for place, length in enumerate(lengths.ravel().tolist()):
            if length != _ABSENT:
                texts[place] = raw[position : position + length].decode("utf-8", "surrogatepass")
                position += length
        return texts.reshape(lengths.shape).astype(value["dtype"], copy=False)

    def _dataclass(self, value: Mapping[str, Any]) -> Any:
        cls = self._class(value["class"])
        expected = {field.name for field in dataclasses.fields(cls) if field.init}
        if expected != set(value["fields"]):
            raise FormatError(
                self.path,
                expected=f"the fields {', '.join(sorted(expected))} of {cls.__qualname__}",
                found=", ".join(sorted(value["fields"])),
                remedy="read it with the version of halfmap that wrote it, named in the job's job.json",
            )
        return cls(**{name: self.decode(item) for name, item in value["fields"].items()})

    def _class(self, name: str) -> Any:
        """Find a dataclass or enum of halfmap, or of the module of the class asked for; no other is looked at."""
        module, _, qualname = name.partition(":")
        if module == self.module or module.split(".")[0] == "halfmap":
            found: Any = sys.modules.get(module) or _imported(module)
            for part in qualname.split("."):
                found = getattr(found, part, None)
            if isinstance(found, type) and (dataclasses.is_dataclass(found) or issubclass(found, enum.Enum)):
                return found
        raise FormatError(
            self.path,
            expected="dataclasses and enums of halfmap",
            found=name,
            remedy="read it with the version of halfmap that wrote it, named in the job's job.json",
        )


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _class_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"
