"""Names of tensor shapes, for annotations.

A name says what the last axes are; leading batch dimensions are always allowed. They are plain
aliases: shapes are checked at the doors that users call, with `halfmap.errors.ShapeError`.
"""

from typing import TypeAlias

from torch import Tensor

Images: TypeAlias = Tensor
"""Real, shape (..., y, x)."""
ImagesRfft: TypeAlias = Tensor
"""Complex, shape (..., y, x // 2 + 1): half transforms of images, convention of `ImageGrid.rfft`."""
Volumes: TypeAlias = Tensor
"""Real, shape (..., z, y, x)."""
VolumesRfft: TypeAlias = Tensor
"""Complex, shape (..., z, y, x // 2 + 1): half transforms of volumes."""
BandValues: TypeAlias = Tensor
"""Complex or real, shape (..., K): one value for each coefficient of a `FourierBand`."""
Rotations: TypeAlias = Tensor
"""float64, shape (..., 3, 3): a reference point v lies at (A v)_xy in the image."""
Shifts: TypeAlias = Tensor
"""float64, shape (..., 2): (x, y) in Å."""
