"""Stacks of particles of tilt series, one file each, filled tilt by tilt; and series as RELION 5's tables tell them."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.data.image_series import TiltSeries
from halfmap.grid import ImageGrid
from halfmap.io.mrc import StackWriter
from halfmap.io.relion_tilt_geometry import angles_of_rotation, fields_of_angles
from halfmap.splines.grids import LinearGrid, SplineGrid

_SCRATCH = ".tilt_stacks.partial"


class TiltStackWriter:
    """Write a stack of tilt images for each particle, though images come tilt by tilt.

    What has come lies in a file of the folder until the ``with`` block ends; then each stack appears, with the tilts
    that the particle has in their order, and a block that raises leaves none.

    Parameters
    ----------
    paths : of the stacks, one for each particle.
    n_tilts : of the series.
    grid : of the images.
    float16 : write half precision.

    Raises
    ------
    ProjectError
        A stack cannot be written.
    """

    def __init__(self, paths: Sequence[str | Path], n_tilts: int, grid: ImageGrid, *, float16: bool = False) -> None:
        self.paths = [Path(path) for path in paths]
        self.grid = grid
        self.is_visible = np.zeros((len(paths), n_tilts), dtype=bool)
        self._float16 = float16
        self._scratch: Path | None = None
        self._images: NDArray[np.float32] | None = None

    def __enter__(self) -> "TiltStackWriter":
        """Make room for all images."""
        if self.paths:
            folder = self.paths[0].parent
            folder.mkdir(parents=True, exist_ok=True)
            self._scratch = folder / f".{self.paths[0].stem}{_SCRATCH}"
            shape = (*self.is_visible.shape, *self.grid.shape)
            self._images = np.memmap(self._scratch, dtype=np.float32, mode="w+", shape=shape)
        return self

    def put(self, tilt: int, particles: ArrayLike, images: ArrayLike) -> None:
        """Take images of one tilt, shape (n, y, x), of particles by their numbers."""
        assert self._images is not None
        rows = np.asarray(particles, dtype=np.int64)
        self._images[rows, tilt] = images
        self.is_visible[rows, tilt] = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the stacks of particles that have images."""
        try:
            if error is None and self._images is not None:
                for path, images, visible in zip(self.paths, self._images, self.is_visible, strict=True):
                    if visible.any():
                        with StackWriter(path, self.grid, int(visible.sum()), float16=self._float16) as stack:
                            stack.write(images[visible])
        finally:
            self._images = None
            if self._scratch is not None:
                self._scratch.unlink(missing_ok=True)


def visible_text(is_visible: NDArray[np.bool_]) -> NDArray[np.object_]:
    """Return ``rlnTomoVisibleFrames`` of particles, from shape (N, T): which tilts their stacks have."""
    return np.array(["[" + ",".join("1" if one else "0" for one in row) + "]" for row in is_visible], dtype=object)


def rigid_series(series: TiltSeries, rotation: NDArray[np.float64], shift_angstrom: NDArray[np.float64]) -> TiltSeries:
    """Return a series that is turned and moved tilt by tilt, as RELION's tables can tell.

    Parameters
    ----------
    series : for all else.
    rotation : (T, 3, 3), from the tomogram to each tilt.
    shift_angstrom : (T, 2), from the image's centre to where the middle of the tomogram is seen.

    Raises
    ------
    InconsistentDataError
        Tilts of the same dose have unlike x tilts.
    """
    none, flat = SplineGrid.constant(0.0), LinearGrid.constant(0.0)
    plain = {
        **{f"movement_{axis}_angstrom": none for axis in "xy"},
        **{f"stage_angle_{axis}_degrees": none for axis in "xyz"},
        **{f"volume_warp_{axis}_angstrom": flat for axis in "xyz"},
        "level_angle_x_degrees": 0.0,
        "level_angle_y_degrees": 0.0,
        "axis_offset_angstrom": np.array(shift_angstrom),
    }
    turned = fields_of_angles(angles_of_rotation(rotation), series.dose_e_per_angstrom2, series.volume_size_angstrom)
    return series.with_values(**(plain | turned))
