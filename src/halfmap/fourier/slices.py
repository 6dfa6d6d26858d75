"""Central slices of volumes, and their adjoint: the projection theorem on a padded, gridded transform.

This module alone knows the padding and the factors between a volume's transform and its projections'.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from halfmap.errors import InputError, ShapeError
from halfmap.fourier import trilinear
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import crop_or_pad
from halfmap.grid import ImageGrid
from halfmap.kernels import slice_extraction, slice_insertion
from halfmap.tensors import BandValues, Rotations, Volumes

POINTS_PER_THREAD = 20_000


@dataclass(frozen=True, kw_only=True)
class PaddedGrid:
    """The sampling of a cubic volume's transform, finer than its own by the padding.

    Parameters
    ----------
    grid : of the volume; cubic.
    padding : by how many times its side the volume is padded with zeros before its transform.

    Raises
    ------
    ShapeError
        The grid is not cubic.
    InputError
        The padding is less than 1.
    """

    grid: ImageGrid = field(kw_only=False)
    padding: int = 2

    def __post_init__(self) -> None:
        if self.grid.ndim != 3:
            raise ShapeError(f"Slices must be of a cubic volume; got a grid of shape {self.grid.shape}.")
        if self.padding < 1 or int(self.padding) != self.padding:
            raise InputError(f"Padding must be a whole number of at least 1; got {self.padding}; 2 is usual.")
        _ = self.grid.side

    @property
    def padded_side(self) -> int:
        """Side of the padded volume."""
        return self.grid.side * self.padding

    @property
    def radius(self) -> int:
        """Largest stored wave number R: enough for the last shell of a band, interpolation included."""
        return self.padding * (self.grid.side // 2) - self.padding // 2

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the stored half volume, (2R + 1, 2R + 1, R + 1)."""
        return (2 * self.radius + 1, 2 * self.radius + 1, self.radius + 1)

    @property
    def slice_scale(self) -> float:
        """What the padded volume's transform is multiplied by to be that of projections.

        A projection sums over z: it is n times the volume's transform, which padding has divided by
        padding³.
        """
        return float(self.grid.side * self.padding**3)

    def coordinates(self, band: FourierBand) -> Tensor:
        """Return the band's coefficients in wave numbers of the padded volume, float64, shape (K, 2)."""
        return band.frequencies * (self.padded_side * self.grid.pixel_size_angstrom)

    def field_scale(self, band: FourierBand) -> float:
        """Return what slices are multiplied by where the images cover another field than the volume.

        A coefficient is a mean over the field, so that of a wider image is smaller: (n a / n' a')².
        """
        field_angstrom = self.grid.side * self.grid.pixel_size_angstrom
        return (field_angstrom / (band.grid.side * band.grid.pixel_size_angstrom)) ** 2

    def gridding_correction(self, *, device: torch.device | str = "cpu") -> Tensor:
        """Return what linear interpolation multiplies the volume by, float64, shape ``grid.shape``.

        Notes
        -----
        Interpolating a transform between samples 1/P apart multiplies the volume by the product of
        sinc²(x / P) over the axes, P the padded side and x in voxels.
        """
        x = (torch.arange(self.grid.side, dtype=torch.float64, device=device) - self.grid.side // 2) / self.padded_side
        one = torch.special.sinc(x).square()
        return one[:, None, None] * one[:, None] * one


@dataclass(frozen=True, kw_only=True, eq=False)
class PaddedTransform:
    """A volume made ready for slices.

    Parameters
    ----------
    values : complex, shape ``grid.shape``
        On the scale of slices, at wave numbers from -R to R along z and y and from 0 to R along x, DC
        at (R, R, 0). Coefficients at kx = 0 are stored beside their conjugate mates.
    grid : what they sample.

    Raises
    ------
    ShapeError
        The values have another shape.
    """

    values: Tensor
    grid: PaddedGrid

    def __post_init__(self) -> None:
        if tuple(self.values.shape) != self.grid.shape:
            raise ShapeError(
                f"A padded transform must have shape {self.grid.shape}; got shape {tuple(self.values.shape)}."
            )

    def to(self, device: torch.device | str) -> "PaddedTransform":
        """Return the transform on another device."""
        return PaddedTransform(values=self.values.to(device), grid=self.grid)


def prepare(volume: Volumes, grid: ImageGrid, padding: int = 2) -> PaddedTransform:
    """Transform a volume for taking slices.

    Parameters
    ----------
    volume : real, shape (z, y, x) of one volume; any device.
    grid : cubic.
    padding : finer sampling of the transform; errors of slices fall roughly with its square, memory
        grows with its cube.

    Returns
    -------
    `PaddedTransform`. Differentiable in the volume.

    Raises
    ------
    ShapeError, InputError
        See `PaddedGrid`.

    Notes
    -----
    The volume is divided by the gridding correction, sinc² along each axis, before it is padded.
    """
    padded = PaddedGrid(grid, padding=padding)
    if volume.ndim != 3:
        raise ShapeError(f"One volume must have three axes; got shape {tuple(volume.shape)}; prepare them in turn.")
    grid.check(volume, "volume")
    corrected = volume / padded.gridding_correction(device=volume.device).to(volume.dtype)
    large, large_grid = crop_or_pad(corrected, grid, padded.padded_side)
    transform = large_grid.rfft(large)
    rows = _stored_rows(padded, volume.device)
    values = transform[..., : padded.radius + 1].index_select(0, rows).index_select(1, rows)
    return PaddedTransform(values=values * padded.slice_scale, grid=padded)


def to_volume(padded: PaddedTransform) -> Volumes:
    """Return the volume whose slices were inserted.

    Parameters
    ----------
    padded : holding data divided by weights, of `insert`.

    Returns
    -------
    Real, shape (z, y, x). Differentiable in the values.

    Notes
    -----
    Not the inverse of `prepare`: a mean of slice values with linear weights multiplies the volume by
    the gridding correction just as interpolation does, so here, too, it is divided by it.
    """
    grid = padded.grid
    large_grid = grid.grid.with_shape((grid.padded_side,) * 3)
    rows = _stored_rows(grid, padded.values.device)
    # without padding, -R and R are one frequency of an even side
    share = 0.5 if 2 * grid.radius == grid.padded_side else 1.0
    weight = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    weight[0] = weight[-1] = share
    values = padded.values * (weight[:, None, None] * weight[:, None] / grid.slice_scale).to(padded.values.real.dtype)
    side, columns = grid.padded_side, large_grid.rfft_shape[-1]
    transform = values.new_zeros((side, len(rows), grid.radius + 1)).index_add(0, rows, values)
    transform = values.new_zeros((side, side, grid.radius + 1)).index_add(1, rows, transform)
    transform = torch.nn.functional.pad(transform, (0, columns - grid.radius - 1))
    volume, _ = crop_or_pad(large_grid.irfft(transform), large_grid, grid.grid.shape)
    return volume / grid.gridding_correction(device=volume.device).to(volume.dtype)


def extract(padded: PaddedTransform, rotations: Rotations, band: FourierBand) -> BandValues:
    """Take central slices: the transforms of the projections along z of the rotated volume.

    Parameters
    ----------
    padded : of `prepare`.
    rotations : float64, shape (..., 3, 3): a point v of the volume lies at (A v)_xy in the projection.
        Any finite matrix is allowed, so that a magnification can be folded in.
    band : of the projections, whose pixel size may differ from the volume's.

    Returns
    -------
    Complex, shape (..., K), on the scale of `ImageGrid.rfft` of the sum over the volume's voxels along
    z, sampled on the band's grid. Coefficients beyond the stored range are zero. Differentiable in the
    values of ``padded`` (as those of a real volume) and in the rotations, once.

    Raises
    ------
    ShapeError
        The rotations do not end in (3, 3).
    InputError
        A rotation is not finite.

    Notes
    -----
    Coefficient k is the volume's at Aᵀ (kx, ky, 0), interpolated linearly between the eight neighbours.
    On a CPU in single precision a compiled kernel does it, else plain tensor operations.

    References
    ----------
    Bracewell 1956, Aust. J. Phys. 9, 198, for the theorem; Jackson et al. 1991, IEEE Trans. Med.
    Imaging 10, 473, for the gridding correction.
    """
    planes = _planes(rotations, padded.values.device)
    coordinates = padded.grid.coordinates(band).to(padded.values.device)
    slices = _Extract.apply(padded.values, planes, coordinates)
    scale = padded.grid.field_scale(band)
    slices = slices if scale == 1.0 else slices * scale
    return slices.reshape(*rotations.shape[:-2], len(band))


def insert(
    values: BandValues, weights: Tensor | None, rotations: Rotations, band: FourierBand, grid: PaddedGrid
) -> tuple[Tensor, Tensor]:
    """Add slices into a volume's transform: the adjoint of `extract`.

    Parameters
    ----------
    values : complex, shape (..., K).
    weights : real, shape (..., K), spread like the values; None leaves them out.
    rotations : float64, shape (..., 3, 3).
    band : of the slices.
    grid : of the transform that they go to.

    Returns
    -------
    data : complex, shape ``grid.shape``, of `PaddedTransform.values`.
    weight : real, shape ``grid.shape``; of shape (0,) without weights.
        Differentiable in ``values`` and ``rotations``, once; not in ``weights``.

    Raises
    ------
    ShapeError
        Shapes do not fit.
    InputError
        A rotation is not finite, or gradients by the weights are asked for.

    Notes
    -----
    Both mates on kx = 0 receive what falls on either. Adjointness: Re Σ over the band of b* extract(V)
    equals Re Σ over the half volume of insert(b)* V, where kx = 0 counts one half because it is stored
    twice. Sums are formed in the order of the slices, whatever the number of threads of a CPU.
    """
    expected = (*rotations.shape[:-2], len(band))
    if tuple(values.shape) != expected or (weights is not None and tuple(weights.shape) != expected):
        shapes = tuple(values.shape), None if weights is None else tuple(weights.shape)
        raise ShapeError(f"Values and weights must have shape {expected}; got {shapes[0]} and {shapes[1]}.")
    planes = _planes(rotations, values.device)
    coordinates = grid.coordinates(band).to(values.device)
    real = values.real.dtype
    if weights is None:
        weights = torch.empty(0, dtype=real, device=values.device)
    elif weights.requires_grad:
        raise InputError("Weights of an insertion must not ask for gradients; got some that do; detach them.")
    flat_weights = weights.to(values.device, real).reshape(-1, len(band)) if weights.numel() else weights
    scale = grid.field_scale(band)
    values = values if scale == 1.0 else values * scale
    data, weight = _Insert.apply(values.reshape(-1, len(band)), flat_weights, planes, coordinates, grid)
    return data, weight


class _Extract(torch.autograd.Function):
    """Slices of a half volume; its derivative by the values is insertion."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, planes: Tensor, coordinates: Tensor) -> Tensor:
        ctx.save_for_backward(values, planes, coordinates)
        return _extract(values, planes, coordinates)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, planes, coordinates = ctx.saved_tensors
        by_values = by_planes = None
        gradient = gradient.resolve_conj()
        if ctx.needs_input_grad[0]:
            empty = torch.empty(0, dtype=values.real.dtype, device=values.device)
            by_values, _ = _insert(gradient, empty, planes, coordinates, values.shape)
            by_values[..., 0] /= 2  # of a coefficient and its mate, stored both
        if ctx.needs_input_grad[1]:
            by_planes = _plane_gradient(values, planes, coordinates, gradient)
        return by_values, by_planes, None


class _Insert(torch.autograd.Function):
    """Insertion into a half volume; its derivative by the values is slices."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weights: Tensor, planes: Tensor, coordinates: Tensor, grid: PaddedGrid
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(values, planes, coordinates)
        data, weight = _insert(values.resolve_conj(), weights, planes, coordinates, grid.shape)
        ctx.mark_non_differentiable(weight)
        return data, weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
        values, planes, coordinates = ctx.saved_tensors
        both = gradient.resolve_conj().clone()
        _add_mates(both)
        by_values = _extract(both, planes, coordinates) if ctx.needs_input_grad[0] else None
        by_planes = _plane_gradient(both, planes, coordinates, values) if ctx.needs_input_grad[2] else None
        return by_values, None, by_planes, None, None


def _planes(rotations: Rotations, device: torch.device) -> Tensor:
    if tuple(rotations.shape[-2:]) != (3, 3):
        raise ShapeError(f"Rotations must have shape (..., 3, 3); got shape {tuple(rotations.shape)}.")
    if not bool(torch.isfinite(rotations).all()):
        raise InputError("Rotations must be finite; got some that are not; check the angles they come from.")
    return rotations.to(device, torch.float64).reshape(-1, 3, 3)[:, :2].contiguous()


def _stored_rows(padded: PaddedGrid, device: torch.device) -> Tensor:
    return torch.arange(-padded.radius, padded.radius + 1, device=device) % padded.padded_side


def _add_mates(volume: Tensor) -> None:
    """Give both mates on kx = 0 the sum of either, in place."""
    volume[..., 0] = volume[..., 0] + volume[..., 0].flip(0, 1).conj()


def _has_kernel(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.complex64


def _extract(values: Tensor, planes: Tensor, coordinates: Tensor) -> Tensor:
    if not _has_kernel(values):
        return trilinear.extract_slices(values, planes, coordinates)
    slices = slice_extraction.extract_slices(
        _numpy(values), _numpy(planes), _numpy(coordinates), n_threads=_n_threads(planes, coordinates)
    )
    return torch.view_as_complex(torch.from_numpy(slices))


def _insert(
    values: Tensor, weights: Tensor, planes: Tensor, coordinates: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    data = torch.zeros(shape, dtype=values.dtype, device=values.device)
    weight = torch.zeros(shape if weights.numel() else (0,), dtype=values.real.dtype, device=values.device)
    if _has_kernel(values):
        slice_insertion.insert_slices(
            _numpy(data),
            _numpy(weight),
            _numpy(planes),
            _numpy(coordinates),
            _numpy(values),
            _numpy(weights),
            n_threads=_n_threads(planes, coordinates),
        )
    else:
        trilinear.insert_slices(data, weight, planes, coordinates, values, weights)
    _add_mates(data)
    if weights.numel():
        _add_mates(weight)
    return data, weight


def _plane_gradient(values: Tensor, planes: Tensor, coordinates: Tensor, gradient: Tensor) -> Tensor:
    if not _has_kernel(values):
        return trilinear.plane_gradient(values, planes, coordinates, gradient)
    return torch.from_numpy(
        slice_extraction.plane_gradient(
            _numpy(values),
            _numpy(planes),
            _numpy(coordinates),
            _numpy(gradient),
            n_threads=_n_threads(planes, coordinates),
        )
    )


def _n_threads(planes: Tensor, coordinates: Tensor) -> int:
    """Return how many threads pay: a part must outlast the start of its thread."""
    return max(1, min(torch.get_num_threads(), len(planes) * len(coordinates) // POINTS_PER_THREAD))


def _numpy(tensor: Tensor) -> Any:
    """View a contiguous tensor as an array, complex numbers as pairs."""
    detached = tensor.detach()
    return (torch.view_as_real(detached) if detached.is_complex() else detached).contiguous().numpy()
