"""Values written once and memory-mapped by every worker.

A value is pickled with its arrays and tensors beside the pickle, not in it. The file's name is the hash of its
content; reading it maps the file, so that all workers of a machine share one copy in memory and nothing is read
that is not used.
"""

import hashlib
import io
import mmap
import os
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfmap.errors import ComputeError, InconsistentDataError, InputError

if TYPE_CHECKING:
    import torch

_MAGIC = b"halfmapB"
_ALIGNMENT = 64
_CACHED_VALUES = 16

_cache: OrderedDict[str, Any] = OrderedDict()


@dataclass(frozen=True, kw_only=True)
class Broadcast:
    """A value that lies in a file which every worker can read: small to send, cheap to load.

    Parameters
    ----------
    path : the file.
    digest : hash of its content, hexadecimal.
    is_value : whether the file was written by `store`; else it is a file of the caller's.
    """

    path: Path
    digest: str
    is_value: bool

    def load(self) -> Any:
        """Return the value, mapped into memory, the same object at every call in one process.

        Arrays and tensors are private to the process: changing them changes neither the file nor other workers,
        but later loads in the same process see it, so leave them alone. Of a caller's file, an ``.npy`` is mapped, a
        ``.safetensors`` becomes a dictionary of tensors, and any other is returned as its path.

        Raises
        ------
        ComputeError
            The file is gone, or this machine does not see it.
        InconsistentDataError
            The file has been changed since it was broadcast.
        """
        if self.digest in _cache:
            _cache.move_to_end(self.digest)
            return _cache[self.digest]
        try:
            value = self._read()
        except OSError as error:
            raise ComputeError(
                f"{self.path} must be readable by every worker; got '{error.strerror or error}'; "
                "choose a --scratch folder that all machines share."
            ) from error
        _cache[self.digest] = value
        while len(_cache) > _CACHED_VALUES:
            _cache.popitem(last=False)
        return value

    def discard(self) -> None:
        """Remove the file of a value that no task will load any more; a file of the caller's stays."""
        _cache.pop(self.digest, None)
        if self.is_value:
            self.path.unlink(missing_ok=True)

    def _read(self) -> Any:
        if self.is_value:
            return read(self.path)
        if _digest_of_file(self.path) != self.digest:
            raise InconsistentDataError(
                f"{self.path} must stay as it is while the work runs; got other content; start the work again."
            )
        if self.path.suffix == ".npy":
            import numpy as np

            return np.load(self.path, mmap_mode="c")
        if self.path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(self.path)
        return self.path


def store(value: object, folder: Path) -> Broadcast:
    """Write a value into ``folder`` under the hash of its content, unless it lies there already.

    Parameters
    ----------
    value : anything picklable; a `Path` is not copied, its file is only hashed.
    folder : where the file goes.

    Raises
    ------
    InputError
        The value cannot be pickled, or the path is no file.
    ComputeError
        The folder is full or cannot be written to.
    """
    if isinstance(value, Path):
        if not value.is_file():
            raise InputError(f"A path to broadcast must be a file; got {value}; check the path.")
        return Broadcast(path=value.absolute(), digest=_digest_of_file(value), is_value=False)
    parts = parts_of(value)
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    name = digest.hexdigest()
    path = folder.absolute() / f"{name}.value"
    if not path.exists():
        write(parts, path)
    return Broadcast(path=path, digest=name, is_value=True)


def parts_of(value: object) -> "list[bytes | memoryview]":
    """Return the pickle of a value, followed by the contents of its arrays and tensors.

    Raises
    ------
    InputError
        The value, or something in it, cannot be pickled.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = dumps(value, buffers.append)
    return [pickled, *(buffer.raw() for buffer in buffers)]


def write(parts: "list[bytes | memoryview]", path: Path) -> None:
    """Write a pickle and its buffers as one file that `read` maps, complete or not at all.

    Raises
    ------
    ComputeError
        The folder is full or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as stream:
            stream.write(_MAGIC + struct.pack(f"<Q{len(parts)}Q", len(parts), *(len(part) for part in parts)))
            for part in parts:
                stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
                stream.write(part)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ComputeError(
            f"The scratch folder {path.parent} must be writable and have room for "
            f"{sum(len(part) for part in parts)} bytes; got '{error.strerror or error}'; "
            "free space there, or choose another one with --scratch."
        ) from error


def read(path: Path) -> Any:
    """Return the value of a file that `write` made, its arrays mapped, and copied only where they are changed."""
    with open(path, "rb") as stream:
        mapped = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    start = len(_MAGIC)
    (n_parts,) = struct.unpack_from("<Q", mapped, start)
    lengths = struct.unpack_from(f"<{n_parts}Q", mapped, start + 8)
    position = start + 8 + 8 * n_parts
    parts = []
    for length in lengths:
        position += -position % _ALIGNMENT
        parts.append(mapped[position : position + length])
        position += length
    return pickle.loads(parts[0], buffers=parts[1:])


def dumps(value: object, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None) -> bytes:
    """Pickle a value for another process; tensors arrive there on the CPU and without gradients.

    Parameters
    ----------
    value : what to pickle.
    buffer_callback : takes the contents of arrays and tensors that are then left out of the pickle.

    Raises
    ------
    InputError
        The value, or something in it, cannot be pickled.
    """
    stream = io.BytesIO()
    try:
        _Pickler(stream, protocol=5, buffer_callback=buffer_callback).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(
            f"What goes to a worker must be picklable; got '{error}'; use functions and classes "
            "defined at the top of a module, and hand over paths instead of open files."
        ) from error
    return stream.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None or type(value) is not torch.Tensor or value.layout is not torch.strided:
            return NotImplemented
        # Resolved conjugation and contiguity: the bytes alone must say what the tensor holds.
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        raw = plain.view(-1).view(torch.uint8).numpy() if plain.numel() else b""
        return _tensor_of, (pickle.PickleBuffer(raw), str(plain.dtype).removeprefix("torch."), tuple(plain.shape))


def _tensor_of(raw: Any, dtype_name: str, shape: tuple[int, ...]) -> "torch.Tensor":
    import torch

    dtype = getattr(torch, dtype_name)
    if len(memoryview(raw)) == 0:
        return torch.empty(shape, dtype=dtype)
    writable = raw if not memoryview(raw).readonly else bytearray(raw)
    return torch.frombuffer(writable, dtype=dtype).reshape(shape)


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
