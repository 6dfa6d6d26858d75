"""`ImageCache`: the images of many stacks as one file in a scratch folder, made once and removed in the end."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import ComputeError
from halfmap.grid import ImageGrid
from halfmap.io.mapped_stacks import unmap
from halfmap.io.mrc_header import HEADER_BYTES, MrcHeader, new_header, read_header

PAGE_BYTES = 4096
"""Images begin at a page, and so do the parts that different machines write (`images_of_whole_pages`)."""

_PREFIX = "halfmap-images-"
_NAME = "images.mrcs"
_POLL_SECONDS = 0.5
_KEPT_SECONDS = 7 * 24 * 3600.0
_UNKNOWN_STATISTICS = (0.0, -1.0, -2.0, -1.0)  # MRC2014's way to say that nobody has measured them
_NETWORK_FILE_SYSTEMS = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "gluster", "gpfs", "lustre", "mmfs", "ncpfs", "nfs", "orangefs"),
    *("panfs", "pvfs2", "smb", "sshfs", "weka"),
)


class ImageCache:
    """A folder ``halfmap-images-KEY`` with one stack in it, ``images.mrcs``.

    The stack appears under its name when it is complete, so a killed writer leaves nothing that is mistaken for it, and
    a job that goes on finds what is complete. Jobs that read the same images at the same time share one stack: each
    holds a lock, and who closes last removes the folder. Folders whose owner was killed are known by their lock being
    free: incomplete ones are removed by the next cache made beside them, complete ones after a week, or when their
    room is needed.

    Parameters
    ----------
    above : the folder to make it in, made if missing.
    key : hash of all that the content follows from.
    owner : identity of the job. On file systems without locks its folder is not shared with other jobs.
    check : called while another job writes the same stack; raises to give up waiting.

    Raises
    ------
    ComputeError
        ``above`` cannot be written to.
    """

    def __init__(self, above: Path, key: str, *, owner: str, check: Callable[[], None] = lambda: None) -> None:
        self._above = above
        try:
            above.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked(above / f"{_PREFIX}{key}", owner, check)
        except OSError as error:
            raise _unwritable(above, error) from error
        _remove_abandoned(above, self.folder, only_useless=True)

    @property
    def path(self) -> Path:
        """The stack, where it is complete."""
        return self.folder / _NAME

    @property
    def partial(self) -> Path:
        """The stack while it is written."""
        return self.folder / f".{_NAME}.partial"

    @property
    def is_complete(self) -> bool:
        """Whether the stack is there and need not be written."""
        return self.path.exists()

    def has_room(self, n_bytes: int) -> bool:
        """Tell whether the disc can hold the stack, at the cost of complete ones that nobody uses."""
        if shutil.disk_usage(self._above).free < n_bytes:
            _remove_abandoned(self._above, self.folder, only_useless=False)
        return shutil.disk_usage(self._above).free >= n_bytes

    def begin(self, n_images: int, grid: ImageGrid, *, float16: bool) -> MrcHeader:
        """Make the stack with all its length and no content; `write_images` puts the images into it.

        Returns
        -------
        The header of `partial`.

        Raises
        ------
        ComputeError
            The disc refuses.
        """
        n_extended_bytes = PAGE_BYTES - HEADER_BYTES
        header = new_header(
            (n_images, grid.shape[0], grid.shape[1]),
            grid.pixel_size_angstrom,
            float16=float16,
            is_volume=False,
            statistics=_UNKNOWN_STATISTICS,
            n_extended_bytes=n_extended_bytes,
        )
        try:
            with open(self.partial, "wb") as stream:
                stream.write(header)
                stream.truncate(stack_bytes(n_images, grid, float16=float16))
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return read_header(self.partial)

    def finish(self) -> None:
        """Give the stack, now complete, its name, and let other jobs use it.

        Raises
        ------
        ComputeError
            The disc is full or refuses.
        """
        try:
            with open(self.partial, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(self.partial, self.path)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        if self._shares:
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """Remove the folder unless another job uses it; a second call does nothing."""
        if self._lock < 0:
            return
        unmap(self.path)
        if not self._shares or _try_lock(self._lock, fcntl.LOCK_EX):
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1

    def _locked(self, folder: Path, owner: str, check: Callable[[], None]) -> int:
        """Return the descriptor of the folder's lock: held shared where the stack is complete, else alone."""
        self.folder, self._shares = folder, True
        while True:
            self.folder.mkdir(exist_ok=True)
            try:
                lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:  # its last user has just removed it
                continue
            try:
                if not self._shares:
                    return lock
                is_maker = _try_lock(lock, fcntl.LOCK_EX) and not self.is_complete
                is_user = not is_maker and _try_lock(lock, fcntl.LOCK_SH) and self.is_complete
                if (is_maker or is_user) and _is_still(self.folder / "lock", lock):
                    return lock
            except OSError:  # a file system without locks
                self.folder, self._shares = folder.with_name(f"{folder.name}-{owner}"), False
                os.close(lock)
                continue
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
            check()
            time.sleep(_POLL_SECONDS)


def write_images(header: MrcHeader, first: int, images: NDArray[Any]) -> None:
    """Put images into a stack that `ImageCache.begin` made; several processes may do so at once.

    Parameters
    ----------
    header : of the stack.
    first : 0-based number of the first image.
    images : shape (n, y, x); stored in the stack's type.

    Raises
    ------
    ComputeError
        The disc is full or refuses.
    """
    octets = np.ascontiguousarray(images, dtype=header.dtype).reshape(-1).view(np.uint8).data
    try:
        with open(header.path, "r+b", buffering=0) as stream:
            stream.seek(header.data_offset + first * header.section_bytes)
            written = 0
            while written < len(octets):
                written += stream.write(octets[written:])
    except OSError as error:
        raise _unwritable(header.path.parent, error) from error


def stack_bytes(n_images: int, grid: ImageGrid, *, float16: bool) -> int:
    """Return the size of a cached stack."""
    return PAGE_BYTES + n_images * grid.n_pixels * (2 if float16 else 4)


def images_of_whole_pages(image_bytes: int) -> int:
    """Return the least number of images that together fill whole pages.

    Machines that share a disc over the network may lose each other's bytes where they write into one page.
    """
    return PAGE_BYTES // int(np.gcd(image_bytes, PAGE_BYTES))


def key_of_images(headers: tuple[MrcHeader, ...], files: NDArray[np.int64], sections: NDArray[np.int64]) -> str:
    """Return the hash of a choice of images: of paths, sizes and dates of their files, and of their numbers.

    Parameters
    ----------
    headers : of the files.
    files, sections : of each image, the row of its file and its 0-based number there; int64, shape (n,).
    """
    digest = blake2b(digest_size=12)
    for header in headers:
        status = header.path.stat()
        digest.update(f"{header.path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    for numbers in (files, sections):
        digest.update(np.ascontiguousarray(numbers, dtype="<i8").data)
    return digest.hexdigest()


def is_on_network(path: Path) -> bool:
    """Tell whether a file lies on a disc of another machine, as far as the kind of its file system shows it."""
    import psutil

    path = path.resolve()
    mounts = [disc for disc in psutil.disk_partitions(all=True) if path.is_relative_to(disc.mountpoint)]
    kind = max(mounts, key=lambda disc: len(disc.mountpoint)).fstype.lower() if mounts else ""
    return kind.removeprefix("fuse.").startswith(_NETWORK_FILE_SYSTEMS)


def _remove_abandoned(above: Path, own: Path, *, only_useless: bool) -> None:
    for folder in above.glob(_PREFIX + "*"):
        if folder == own:
            continue
        try:
            lock = os.open(folder / "lock", os.O_RDWR)
        except OSError:
            continue
        try:
            stack = folder / _NAME
            is_useful = stack.exists() and time.time() - stack.stat().st_mtime < _KEPT_SECONDS
            if not (is_useful and only_useless) and _try_lock(lock, fcntl.LOCK_EX):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # removed by another, or a file system without locks: leave it alone
        finally:
            os.close(lock)


def _try_lock(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Tell whether a path still leads to the file of an open descriptor."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _unwritable(folder: Path, error: OSError) -> ComputeError:
    return ComputeError(
        f"The scratch folder {folder} must be writable and have room for the images; got '{error.strerror or error}'; "
        "free space there, or choose another one with --scratch."
    )
