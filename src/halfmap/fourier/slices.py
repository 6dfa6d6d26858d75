"""Central slices of references, and their adjoint: the projection theorem on a padded, gridded transform.

A reference is a volume, whose slices are transforms of its projections, or an image (a class average,
say), whose slices are transforms of the image turned in its plane. This module alone knows the padding
and the factors between a reference's transform and its slices.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import crop_or_pad
from halfmap.fourier.slice_functions import Extract, Insert, extract_sloping_slices
from halfmap.grid import ImageGrid
from halfmap.tensors import BandValues, Images, Rotations, Volumes


@dataclass(frozen=True, kw_only=True)
class PaddedGrid:
    """The sampling of a reference's transform, finer than its own by the padding.

    Parameters
    ----------
    grid : of the reference; square or cubic.
    padding : by how many times its side the reference is padded with zeros before its transform.

    Raises
    ------
    ShapeError
        The sides of the grid differ.
    InputError
        The padding is less than 1.
    """

    grid: ImageGrid = field(kw_only=False)
    padding: int = 2

    def __post_init__(self) -> None:
        if self.padding < 1 or int(self.padding) != self.padding:
            raise InputError(f"Padding must be a whole number of at least 1; got {self.padding}; 2 is usual.")
        _ = self.grid.side

    @property
    def padded_side(self) -> int:
        """Side of the padded reference."""
        return self.grid.side * self.padding

    @property
    def radius(self) -> int:
        """Largest stored wave number R: enough for the last shell of a band, interpolation included."""
        return self.padding * (self.grid.side // 2) - self.padding // 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored half transform, (2R + 1, R + 1) of an image, (2R + 1, 2R + 1, R + 1) of a volume."""
        return (*(2 * self.radius + 1,) * (self.grid.ndim - 1), self.radius + 1)

    @property
    def slice_scale(self) -> float:
        """What the padded reference's transform is multiplied by to be that of slices.

        Padding has divided it by padding per axis. A projection sums over z besides, so it is n times
        the volume's transform; the slice of an image is its transform.
        """
        return float(self.grid.side ** (self.grid.ndim - 2) * self.padding**self.grid.ndim)

    def coordinates(self, band: FourierBand, wavelength_angstrom: float = 0.0) -> Tensor:
        """Return the band's coefficients in wave numbers of the padded reference, float64.

        Parameters
        ----------
        band : of the slices.
        wavelength_angstrom : λ where slices are curved, of either sign.

        Returns
        -------
        Shape (K, 2), or (K, 3) with λ s² / 2, the height of Ewald's sphere at a frequency s.
        """
        flat = band.frequencies
        if wavelength_angstrom:
            flat = torch.cat([flat, wavelength_angstrom / 2 * flat.square().sum(-1, keepdim=True)], dim=-1)
        return flat * (self.padded_side * self.grid.pixel_size_angstrom)

    def field_scale(self, band: FourierBand) -> float:
        """Return what slices are multiplied by where the images cover another field than the reference.

        A coefficient is a mean over the field, so that of a wider image is smaller: (n a / n' a')².
        """
        field_angstrom = self.grid.side * self.grid.pixel_size_angstrom
        return (field_angstrom / (band.grid.side * band.grid.pixel_size_angstrom)) ** 2

    def gridding_correction(self, *, device: torch.device | str = "cpu") -> Tensor:
        """Return what linear interpolation multiplies the reference by, float64, shape ``grid.shape``.

        Notes
        -----
        Interpolating a transform between samples 1/P apart multiplies the reference by the product of
        sinc²(x / P) over the axes, P the padded side and x in voxels.
        """
        x = (torch.arange(self.grid.side, dtype=torch.float64, device=device) - self.grid.side // 2) / self.padded_side
        one = correction = torch.special.sinc(x).square()
        for _ in range(self.grid.ndim - 1):
            correction = correction[..., None] * one
        return correction


@dataclass(frozen=True, kw_only=True, eq=False)
class PaddedTransform:
    """References made ready for slices: one volume, or any number of images.

    Parameters
    ----------
    values : complex, shape ``grid.shape`` of a volume, (..., *grid.shape) of images
        On the scale of slices, at wave numbers from -R to R along (z and) y and from 0 to R along x, DC
        at (R, ..., 0). Coefficients at kx = 0 are stored beside their conjugate mates.
    grid : what they sample.

    Raises
    ------
    ShapeError
        The values have another shape.
    """

    values: Tensor
    grid: PaddedGrid

    def __post_init__(self) -> None:
        shape = self.grid.shape
        stored = self.values.shape if len(shape) == 3 else self.values.shape[-len(shape) :]
        if tuple(stored) != shape:
            raise ShapeError(f"A padded transform must have shape {shape}; got shape {tuple(self.values.shape)}.")

    def to(self, device: torch.device | str) -> "PaddedTransform":
        """Return the transform on another device."""
        return PaddedTransform(values=self.values.to(device), grid=self.grid)


def prepare(references: Volumes | Images, grid: ImageGrid, padding: int = 2) -> PaddedTransform:
    """Transform references for taking slices.

    Parameters
    ----------
    references : real, shape (z, y, x) of one volume or (..., y, x) of images; any device.
    grid : of the references; cubic or square.
    padding : finer sampling of the transform; errors of slices fall roughly with its square, memory
        grows with its cube (of images: with its square).

    Returns
    -------
    `PaddedTransform`. Differentiable in the references.

    Raises
    ------
    ShapeError, InputError
        See `PaddedGrid`.

    Notes
    -----
    The reference is divided by the gridding correction, sinc² along each axis, before it is padded.
    """
    padded = PaddedGrid(grid, padding=padding)
    if grid.ndim == 3 and references.ndim != 3:
        raise ShapeError(f"One volume must have three axes; got shape {tuple(references.shape)}; prepare them in turn.")
    grid.check(references, "references")
    corrected = references / padded.gridding_correction(device=references.device).to(references.dtype)
    large, large_grid = crop_or_pad(corrected, grid, padded.padded_side)
    transform = large_grid.rfft(large)[..., : padded.radius + 1]
    rows = _stored_rows(padded, references.device)
    for axis in range(-grid.ndim, -1):
        transform = transform.index_select(axis, rows)
    return PaddedTransform(values=transform * padded.slice_scale, grid=padded)


def to_reference(padded: PaddedTransform) -> Volumes | Images:
    """Return the references whose slices were inserted.

    Parameters
    ----------
    padded : holding data divided by weights, of `insert`.

    Returns
    -------
    Real, shape (z, y, x) of a volume, (..., y, x) of images. Differentiable in the values.

    Notes
    -----
    Not the inverse of `prepare`: a mean of slice values with linear weights multiplies the reference by
    the gridding correction just as interpolation does, so here, too, it is divided by it.
    """
    grid, values = padded.grid, padded.values
    # without padding, -R and R are one frequency of an even side
    share = 0.5 if 2 * grid.radius == grid.padded_side else 1.0
    weight = torch.ones(2 * grid.radius + 1, dtype=values.real.dtype, device=values.device)
    weight[0] = weight[-1] = share
    for axis in range(1, grid.grid.ndim):
        values = values * weight.reshape(-1, *(1,) * axis)
    return _in_space(values, grid) / grid.slice_scale


def extract(
    padded: PaddedTransform, rotations: Rotations, band: FourierBand, *, wavelength_angstrom: float = 0.0
) -> BandValues:
    """Take central slices: transforms of the projections along z of the rotated volume, or of turned images.

    Parameters
    ----------
    padded : of `prepare`; a volume, or images of any leading shape.
    rotations : float64, shape (..., 3, 3): a point v of the reference lies at (A v)_xy in the slice.
        Any finite matrix is allowed, so that a magnification can be folded in. Of images only the upper
        left 2 by 2 block counts, their rotation in the plane.
    band : of the slices, whose pixel size may differ from the reference's.
    wavelength_angstrom : λ, to take slices of a volume on Ewald's sphere, see `PaddedGrid.coordinates`; of either sign;
        0 for flat ones. Of curved ones there are no derivatives by rotations.

    Returns
    -------
    Complex, shape (..., K) of a volume, (*leading shape of the images, ..., K) of images: each of them
    at each rotation. On the scale of `ImageGrid.rfft` of the sum over the volume's voxels along z, or
    of the turned image, sampled on the band's grid. Coefficients beyond the stored range are zero.
    Differentiable in the values of ``padded`` (as those of real references) and in the rotations, once.

    Raises
    ------
    ShapeError
        The rotations do not end in (3, 3).
    InputError
        A rotation is not finite.

    Notes
    -----
    Coefficient k is the reference's at Aᵀ (kx, ky, 0), interpolated linearly between the neighbours,
    eight in a volume and four in an image. On a CPU in single precision a compiled kernel does it, else
    plain tensor operations.

    References
    ----------
    Bracewell 1956, Aust. J. Phys. 9, 198, for the theorem; Jackson et al. 1991, IEEE Trans. Med.
    Imaging 10, 473, for the gridding correction.
    """
    shape = padded.grid.shape
    leading = padded.values.shape[: -len(shape)]
    planes = _planes(rotations, padded.grid, padded.values.device, wavelength_angstrom)
    coordinates = padded.grid.coordinates(band, wavelength_angstrom).to(padded.values.device)
    slices = Extract.apply(padded.values.reshape(-1, *shape), planes, coordinates)
    scale = padded.grid.field_scale(band)
    slices = slices if scale == 1.0 else slices * scale
    return slices.reshape(*leading, *rotations.shape[:-2], len(band))


def extract_turning(padded: PaddedTransform, rotations: Rotations, band: FourierBand) -> tuple[BandValues, BandValues]:
    """Take central slices of a volume together with how they change as it turns.

    Parameters
    ----------
    padded : of `prepare`, of a volume.
    rotations : float64, shape (..., 3, 3).
    band : of the slices.

    Returns
    -------
    slices : complex, shape (..., K): as of `extract`.
    derivatives : complex, shape (3, ..., K): with the rotation replaced by exp[ω] A, by the components of ω about the
        image's x and y axes and the viewing direction, per radian. The last is a turn in the plane. Of linear
        interpolation, so constant along each axis of a cell.

    Raises
    ------
    ShapeError
        The rotations do not end in (3, 3), or the reference is no volume.
    InputError
        A rotation is not finite.

    Notes
    -----
    Point q = (kx, ky, 0) of the slice is read at Aᵀ exp[−ω] q, which moves by −Aᵀ (ω × q).
    """
    if padded.grid.grid.ndim != 3:
        raise ShapeError(f"Turning slices must be of a volume; got references of shape {padded.grid.grid.shape}.")
    values, slopes = extract_with_gradients(padded, rotations, band)
    kx, ky = band.frequencies.to(values.device, values.real.dtype).unbind(-1)
    x, y, z = slopes
    return values, torch.stack([-ky * z, kx * z, ky * x - kx * y])


def extract_with_gradients(
    padded: PaddedTransform, rotations: Rotations, band: FourierBand, *, magnification: Tensor | None = None
) -> tuple[BandValues, BandValues]:
    """Take central slices of a volume together with the slopes of its transform at their points.

    Parameters
    ----------
    padded : of `prepare`, of a volume.
    rotations : float64, shape (..., 3, 3).
    band : of the slices.
    magnification : shape (2, 2)
        M of `halfmap.optics.aberrations.magnify`: coefficient k is read at Aᵀ (M k, 0). None for the identity.

    Returns
    -------
    slices : complex, shape (..., K): as of `extract`.
    slopes : complex, shape (3, ..., K): derivatives of the slices, in Å, by moves of the point where each coefficient
        is read along the image's x axis, its y axis and the viewing direction, in 1/Å. Of linear interpolation, so
        constant along each axis of a cell.

    Raises
    ------
    ShapeError
        The rotations do not end in (3, 3), or the reference is no volume.
    InputError
        A rotation is not finite.
    """
    if padded.grid.grid.ndim != 3:
        raise ShapeError(f"Turning slices must be of a volume; got references of shape {padded.grid.grid.shape}.")
    _planes(rotations, padded.grid, padded.values.device)
    matrices = rotations.to(padded.values.device, torch.float64).reshape(-1, 3, 3).contiguous()
    coordinates = padded.grid.coordinates(band).to(padded.values.device)
    if magnification is not None:
        coordinates = coordinates @ magnification.to(coordinates).T
    both = extract_sloping_slices(padded.values[None], matrices, coordinates.contiguous())
    both *= padded.grid.field_scale(band)
    both = both.reshape(4, *rotations.shape[:-2], len(band))
    # slopes per wave number of the padded volume become those per 1/Å
    return both[0], both[1:] * (padded.grid.padded_side * padded.grid.grid.pixel_size_angstrom)


def insert(
    values: BandValues,
    weights: Tensor | None,
    rotations: Rotations,
    band: FourierBand,
    grid: PaddedGrid,
    *,
    wavelength_angstrom: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Add slices into references' transforms: the adjoint of `extract`.

    Parameters
    ----------
    values : complex, shape (..., K) into a volume, (*leading shape, ..., K) into images.
    weights : real, of the values' shape, spread like them; None leaves them out.
    rotations : float64, shape (..., 3, 3).
    band : of the slices.
    grid : of the transforms that they go to.
    wavelength_angstrom : as for `extract`.

    Returns
    -------
    data : complex, shape (*leading shape, *grid.shape), of `PaddedTransform.values`.
    weight : real, of the same shape; of shape (0,) without weights.
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
    equals Re Σ over the half transform of insert(b)* V, where kx = 0 counts one half because it is
    stored twice. Sums are formed in the order of the slices, whatever the number of threads of a CPU.
    """
    expected = (*rotations.shape[:-2], len(band))
    n_leading = max(0, values.ndim - len(expected)) if grid.grid.ndim == 2 else 0
    leading = tuple(values.shape[:n_leading])
    expected = (*leading, *expected)
    if tuple(values.shape) != expected or (weights is not None and tuple(weights.shape) != expected):
        shapes = tuple(values.shape), None if weights is None else tuple(weights.shape)
        raise ShapeError(f"Values and weights must have shape {expected}; got {shapes[0]} and {shapes[1]}.")
    planes = _planes(rotations, grid, values.device, wavelength_angstrom)
    coordinates = grid.coordinates(band, wavelength_angstrom).to(values.device)
    real = values.real.dtype
    flat_shape = (-1, len(planes), len(band))
    if weights is None:
        weights = torch.empty(0, dtype=real, device=values.device)
    elif weights.requires_grad:
        raise InputError("Weights of an insertion must not ask for gradients; got some that do; detach them.")
    else:
        weights = weights.to(values.device, real).reshape(flat_shape)
    scale = grid.field_scale(band)
    values = (values if scale == 1.0 else values * scale).reshape(flat_shape)
    data, weight = Insert.apply(values, weights, planes, coordinates, (len(values), *grid.shape))
    shape = (*leading, *grid.shape)
    return data.reshape(shape), weight.reshape(shape) if weight.numel() else weight


def adjoint(values: BandValues, rotations: Rotations, band: FourierBand, grid: PaddedGrid) -> Volumes | Images:
    """Add slices into references, in space: the transpose of `prepare` followed by `extract`.

    Parameters
    ----------
    values, rotations, band, grid : as for `insert`.

    Returns
    -------
    Real, shape (z, y, x) of a volume, (*leading shape, y, x) of images. Differentiable in ``values``
    and ``rotations``, once.

    Raises
    ------
    ShapeError, InputError
        See `insert`.

    Notes
    -----
    For every V, Re Σ over the band of values* extract(prepare(V)) equals Σ over the voxels of the
    result times V, to rounding: this is the derivative of a function of slices by the reference.
    """
    data, _ = insert(values, None, rotations, band, grid)
    # the inverse transform counts a coefficient with its mate, which is once too often, and the last
    # column of an even side alone
    weight = torch.full((grid.radius + 1,), 0.5, dtype=data.real.dtype, device=data.device)
    if 2 * grid.radius == grid.padded_side:
        weight[-1] = 1.0
    return _in_space(data * weight, grid) * (grid.slice_scale / grid.padded_side**grid.grid.ndim)


def _in_space(values: Tensor, padded: PaddedGrid) -> Tensor:
    """Invert a stored transform, crop it and divide it by the gridding correction; equal frequencies add up."""
    large_grid = padded.grid.with_shape((padded.padded_side,) * padded.grid.ndim)
    rows = _stored_rows(padded, values.device)
    for axis in range(-padded.grid.ndim, -1):
        shape = list(values.shape)
        shape[axis] = padded.padded_side
        values = values.new_zeros(shape).index_add_(axis, rows, values)
    transform = torch.nn.functional.pad(values, (0, large_grid.rfft_shape[-1] - padded.radius - 1))
    reference, _ = crop_or_pad(large_grid.irfft(transform), large_grid, padded.grid.shape)
    return reference / padded.gridding_correction(device=reference.device).to(reference.dtype)


def _planes(rotations: Rotations, padded: PaddedGrid, device: torch.device, wavelength_angstrom: float = 0.0) -> Tensor:
    if tuple(rotations.shape[-2:]) != (3, 3):
        raise ShapeError(f"Rotations must have shape (..., 3, 3); got shape {tuple(rotations.shape)}.")
    if not bool(torch.isfinite(rotations).all()):
        raise InputError("Rotations must be finite; got some that are not; check the angles they come from.")
    if wavelength_angstrom and (rotations.requires_grad or padded.grid.ndim == 2):
        raise InputError(
            "Curved slices must be of a volume, at rotations that ask for no gradients; got others; take flat ones "
            "with a wavelength of 0."
        )
    n_rows = 3 if wavelength_angstrom else 2
    return rotations.to(device, torch.float64).reshape(-1, 3, 3)[:, :n_rows, : padded.grid.ndim].contiguous()


def _stored_rows(padded: PaddedGrid, device: torch.device) -> Tensor:
    return torch.arange(-padded.radius, padded.radius + 1, device=device) % padded.padded_side
