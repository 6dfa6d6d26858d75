"""`ImageSource` and `FrameSource`: images that are read when they are needed.

A source is lazy and picklable and holds no open handle, so a task can carry it to another process.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.errors import InputError, ShapeError
from halfmap.grid import ImageGrid

Float32Array: TypeAlias = NDArray[np.float32]


@runtime_checkable
class ImageSource(Protocol):
    """Images of one size and pixel size, read by number."""

    @property
    def grid(self) -> ImageGrid:
        """Sides and pixel size of every image."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def read(self, indices: ArrayLike) -> Float32Array:
        """Return images by their 0-based numbers, in the order asked for, shape (n, y, x)."""
        ...


@runtime_checkable
class FrameSource(Protocol):
    """Particles of which each has several images: frames of a movie or tilts of a series."""

    @property
    def grid(self) -> ImageGrid:
        """Sides and pixel size of every image."""
        ...

    @property
    def n_frames(self) -> int:
        """Largest number of images that a particle has."""
        ...

    def __len__(self) -> int:
        """Return the number of particles."""
        ...

    def read(self, indices: ArrayLike) -> Float32Array:
        """Return particles by their 0-based numbers, shape (n, n_frames, y, x); images that lack are 0."""
        ...

    def is_present(self, indices: ArrayLike) -> NDArray[np.bool_]:
        """Return which images the particles have, shape (n, n_frames)."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource:
    """Images that already lie in memory.

    Parameters
    ----------
    images : shape (n, y, x); made float32.
    grid : their sides and pixel size.

    Raises
    ------
    ShapeError
        The images have other sides than the grid.
    """

    images: Float32Array
    grid: ImageGrid

    def __post_init__(self) -> None:
        images = np.asarray(self.images, dtype=np.float32)
        if images.ndim != 3 or images.shape[1:] != self.grid.shape:
            raise ShapeError(f"Images must have shape (n, {', '.join(map(str, self.grid.shape))}); got {images.shape}.")
        object.__setattr__(self, "images", images)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def read(self, indices: ArrayLike) -> Float32Array:
        """Return copies of images by number, shape (n, y, x)."""
        return self.images[checked_indices(indices, len(self))]


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupedSource:
    """A `FrameSource` made from single images and a table of which belong to which particle.

    Parameters
    ----------
    images : the single images.
    members : shape (n_particles, n_frames): 0-based numbers of the images; -1 where a particle lacks one.

    Raises
    ------
    InputError
        A member is not an image of the source.
    """

    images: ImageSource
    members: NDArray[np.int64]

    def __post_init__(self) -> None:
        members = np.asarray(self.members, dtype=np.int64)
        if members.ndim != 2:
            raise ShapeError(f"Members must have shape (n_particles, n_frames); got {members.shape}.")
        if members.size and (members.min() < -1 or members.max() >= len(self.images)):
            raise InputError(
                f"Members must be -1 or the numbers of {len(self.images)} images; "
                f"got {members.min()} to {members.max()}."
            )
        object.__setattr__(self, "members", members)

    @property
    def grid(self) -> ImageGrid:
        """Sides and pixel size of every image."""
        return self.images.grid

    @property
    def n_frames(self) -> int:
        """Largest number of images that a particle has."""
        return int(self.members.shape[1])

    def __len__(self) -> int:
        """Return the number of particles."""
        return len(self.members)

    def is_present(self, indices: ArrayLike) -> NDArray[np.bool_]:
        """Return which images the particles have, shape (n, n_frames)."""
        present: NDArray[np.bool_] = self.members[checked_indices(indices, len(self))] >= 0
        return present

    def read(self, indices: ArrayLike) -> Float32Array:
        """Return particles by number, shape (n, n_frames, y, x); images that lack are 0."""
        members = self.members[checked_indices(indices, len(self))]
        frames = np.zeros((*members.shape, *self.grid.shape), dtype=np.float32)
        present = members >= 0
        frames[present] = self.images.read(members[present])
        return frames


def checked_indices(indices: ArrayLike, n_images: int) -> NDArray[np.int64]:
    """Return 0-based numbers as an int64 vector.

    Raises
    ------
    InputError
        A number is not an integer in ``0 … n_images - 1``.
    """
    given = np.atleast_1d(np.asarray(indices))
    if given.size == 0:
        return np.zeros(0, dtype=np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise InputError(f"Image numbers must be a vector of whole numbers; got shape {given.shape} of {given.dtype}.")
    if given.min() < 0 or given.max() >= n_images:
        raise InputError(
            f"Image numbers must be 0 to {n_images - 1}; got {given.min()} to {given.max()}; "
            "ask for images that are there."
        )
    return given.astype(np.int64)
