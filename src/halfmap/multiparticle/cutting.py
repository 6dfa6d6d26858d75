"""Images of particles cut out of the images of a series, one image after the other."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.data.image_series import ImageSeries
from halfmap.data.image_source import ImageSource
from halfmap.errors import InconsistentDataError, InputError
from halfmap.fourier.band import FourierBand
from halfmap.fourier.filters import high_pass
from halfmap.fourier.resample import crop_or_pad_transform
from halfmap.grid import ImageGrid
from halfmap.optics.ctf import phase_aberration
from halfmap.tensors import BandValues

ImagePasses = Iterable[tuple[int, list[BandValues]]]
"""Numbers of images, and what was cut out of each for every species, (P, K); can be gone through again and again."""

STEPS = 32
"Images are binned by ratios of whole numbers to this, so that both sides shrink alike."
MARGIN = 1.15
"By how much more finely than needed binned images are sampled."
_ALIAS_STEPS = 1000
_ALIAS_MARGIN = 1.1
_BYTES_PER_PIXEL = 64
"""Of a particle's window: 32 for boxes of it and of what is around it, their transforms and what of these is compared;
as much for gaps between these."""
_SHARE_OF_GAPS = 1 / 8  # between blocks that are kept; measured


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """The windows in which the particles of a species are seen.

    Parameters
    ----------
    grid : of a window, square, of binned pixels.
    band : of its transform, up to the resolution.
    """

    grid: ImageGrid
    band: FourierBand


def alias_free_length_angstrom(
    series: ImageSeries, defocus_angstrom: float, resolution_angstrom: float, diameter_angstrom: float
) -> float:
    """Return how wide a window must be so that the CTF does not wrap a particle's signal around.

    Parameters
    ----------
    series : whose optics count.
    defocus_angstrom : the largest of its images.
    resolution_angstrom : up to which images are compared.
    diameter_angstrom : of the particle.

    Notes
    -----
    A frequency s is displaced by (dγ/ds) / 2π; the window holds the diameter and twice the largest displacement, with
    a tenth to spare.
    """
    s = torch.linspace(0, 1 / resolution_angstrom, _ALIAS_STEPS + 1, dtype=torch.float64)
    phase = phase_aberration(
        torch.stack([s, torch.zeros_like(s)], dim=-1),
        defocus_u_angstrom=defocus_angstrom,
        defocus_v_angstrom=defocus_angstrom,
        voltage_kv=series.optics.voltage_kv,
        spherical_aberration_mm=series.optics.spherical_aberration_mm,
        amplitude_contrast=series.optics.amplitude_contrast,
    )
    slope = float(phase.diff().abs().max()) * _ALIAS_STEPS * resolution_angstrom
    return diameter_angstrom + 2 * _ALIAS_MARGIN * slope / (2 * math.pi)


def binned_grid(grid: ImageGrid, resolution_angstrom: float) -> ImageGrid:
    """Return the grid of images padded to whole steps and binned as far as a resolution allows."""
    wanted = resolution_angstrom / 2 / MARGIN
    kept = min(STEPS, math.ceil(STEPS * grid.pixel_size_angstrom / wanted))
    sides = tuple(2 * kept * math.ceil(side / (2 * STEPS)) for side in grid.shape)
    return ImageGrid(shape=sides, pixel_size_angstrom=grid.pixel_size_angstrom * STEPS / kept)


def windows(
    grid: ImageGrid, length_angstrom: float, resolution_angstrom: float, *, device: torch.device | str = "cpu"
) -> Windows:
    """Return windows of at least a length on a binned grid, and their band up to a resolution.

    Raises
    ------
    InputError
        The resolution leaves no shell, or is beyond what the images can hold.
    """
    side = 2 * math.ceil(length_angstrom / grid.pixel_size_angstrom / 2)
    window = ImageGrid.square(side, grid.pixel_size_angstrom)
    last = min(side // 2 - 1, math.floor(side * grid.pixel_size_angstrom / resolution_angstrom + 1e-6))
    if last < 2:
        raise InputError(
            f"Images must be compared beyond their second shell; a resolution of {resolution_angstrom:g} Å leaves "
            f"{last} of a window of {side} px of {grid.pixel_size_angstrom:g} Å; give a finer resolution."
        )
    return Windows(grid=window, band=FourierBand(window, max_shell=last, device=device))


def prepared(image: Tensor, grid: ImageGrid, binned: ImageGrid, coarsest_angstrom: float) -> Tensor:
    """Make an image ready for cutting.

    Parameters
    ----------
    image : float32, shape ``grid.shape``, as recorded: particles dark.
    binned : of `binned_grid`.
    coarsest_angstrom : the plane and what is coarser than this are removed.

    Returns
    -------
    float32, shape ``binned.shape``
        Particles bright, standard deviation 1. The corner pixel's centre stays where it was.

    Raises
    ------
    InputError
        The image is not finite, or the same everywhere.
    """
    if not bool(torch.isfinite(image).all()):
        raise InputError("An image of a series must be finite; got values that are not; repair it or leave it out.")
    flat = image.to(torch.float32) - _plane(image)
    steps = binned.shape[0] // math.ceil(grid.shape[0] / (2 * STEPS)) // 2
    sides = tuple(side * STEPS // steps for side in binned.shape)
    padded_grid = grid.with_shape(sides)
    padded = torch.nn.functional.pad(flat, (0, sides[1] - grid.shape[1], 0, sides[0] - grid.shape[0]))
    transform = crop_or_pad_transform(padded_grid.rfft(padded), padded_grid, binned)
    found = binned.irfft(transform * high_pass(binned, coarsest_angstrom, device=image.device))
    deviation = found.std()
    if not float(deviation) > 0:
        raise InputError("An image of a series must show something; got one that is the same everywhere; leave it out.")
    return -found / deviation


def _plane(image: Tensor) -> Tensor:
    """Return the plane that fits best."""
    y, x = (torch.linspace(-1, 1, side, dtype=torch.float64, device=image.device) for side in image.shape)
    values = image.to(torch.float64)
    # x and y are orthogonal to a constant and to each other over the whole rectangle
    slope_x = (values.mean(0) * x).sum() / x.square().sum()
    slope_y = (values.mean(1) * y).sum() / y.square().sum()
    return (values.mean() + slope_x * x + slope_y * y[:, None]).to(torch.float32)


def cut(image: Tensor, windows: Windows, position_angstrom: Tensor) -> tuple[BandValues, Tensor]:
    """Cut particles out of a prepared image.

    Parameters
    ----------
    image : of `prepared`.
    windows : of the species.
    position_angstrom : float64, shape (P, 2), from the centre of the corner pixel.

    Returns
    -------
    values : complex64, shape (P, K)
        Transforms of windows around the nearest whole pixels; zero is put outside the image.
    centre_angstrom : float64, shape (P, 2): where the windows' centres lie.
    """
    side, pixel = windows.grid.side, windows.grid.pixel_size_angstrom
    centre = torch.round(position_angstrom / pixel).to(torch.int64)
    offsets = torch.arange(side, device=image.device) - side // 2
    columns, rows = ((centre[:, axis, None].to(image.device) + offsets) for axis in (0, 1))
    inside = [(at >= 0) & (at < size) for at, size in ((rows, image.shape[0]), (columns, image.shape[1]))]
    rows, columns = rows.clamp(0, image.shape[0] - 1), columns.clamp(0, image.shape[1] - 1)
    boxes = image[rows[:, :, None], columns[:, None, :]] * (inside[0][:, :, None] & inside[1][:, None, :])
    return windows.band.gather(windows.grid.rfft(boxes)), centre.to(torch.float64) * pixel


def kept_bytes(species_windows: Sequence[Windows], n_particles: Sequence[int], n_images: int) -> int:
    """Return what windows of all images take twice, as they are cut and without neighbours."""
    return sum(2 * 8 * len(window.band) * n * n_images for window, n in zip(species_windows, n_particles, strict=True))


def memory_bytes(
    species_windows: Sequence[Windows], n_particles: Sequence[int], n_images: int, *, may_keep_bytes: float
) -> int:
    """Return the most that windows take: those of one image while it is cut, and of all images where these are kept.

    Parameters
    ----------
    species_windows, n_particles : of each species.
    n_images : of the series.
    may_keep_bytes : what `CutImages` may keep.
    """
    kept = kept_bytes(species_windows, n_particles, n_images)
    of_image = sum(
        _BYTES_PER_PIXEL * window.grid.n_pixels * n for window, n in zip(species_windows, n_particles, strict=True)
    )
    return of_image + (int(kept * (1 + _SHARE_OF_GAPS)) if kept <= may_keep_bytes else 0)


class CutImages:
    """The images of particles of several species in a series, image by image.

    Parameters
    ----------
    source : images as recorded, one for each of the series.
    species_windows : of each species.
    position_angstrom : float64, shape (P, T, 2), of each species: where to cut. Later moves are the model's.
    resolution_angstrom : that windows reach to.
    coarsest_angstrom : of `prepared`.
    used : which images to cut.
    memory_bytes : what may be kept. Where everything does not fit twice, as it is cut and without neighbours, images
        are read and cut again at each pass.
    device : where windows are cut and kept.

    Raises
    ------
    InconsistentDataError
        The source has another number of images than positions.
    """

    def __init__(
        self,
        source: ImageSource,
        species_windows: Sequence[Windows],
        position_angstrom: Sequence[Tensor],
        *,
        resolution_angstrom: float,
        coarsest_angstrom: float,
        used: np.ndarray,
        memory_bytes: float,
        device: torch.device | str = "cpu",
    ) -> None:
        n_images = len(used)
        if len(source) != n_images:
            raise InconsistentDataError(
                f"A series must have one image for each of its {n_images} entries; got {len(source)} images; "
                "check that the images are those of this series."
            )
        self._source, self._windows, self._position = source, list(species_windows), list(position_angstrom)
        self._binned = binned_grid(source.grid, resolution_angstrom)
        self._coarsest = coarsest_angstrom
        self._used = used
        self._device = device
        n_bytes = kept_bytes(self._windows, [len(where) for where in self._position], n_images)
        self._kept: dict[int, list[BandValues]] | None = {} if n_bytes <= memory_bytes else None
        pixel = self._binned.pixel_size_angstrom
        self.centre_angstrom = [torch.round(where / pixel) * pixel for where in self._position]
        # rows and columns of the binned image within what was recorded; both share the centre of the corner pixel
        ratio = source.grid.pixel_size_angstrom / pixel
        self._recorded = [math.ceil((side - 0.5) * ratio) for side in source.grid.shape]

    def __iter__(self) -> Iterator[tuple[int, list[BandValues]]]:
        """Yield the number of each used image, and of each species what was cut out, (P, K)."""
        for t in np.flatnonzero(self._used).tolist():
            yield t, self._of(t)

    @property
    def keeps(self) -> bool:
        """Whether there is memory for windows, twice over."""
        return self._kept is not None

    @property
    def share_recorded(self) -> list[Tensor]:
        """Which share of each window lies within its image, float64, (P, T), of each species."""
        found = []
        for window, centre in zip(self._windows, self.centre_angstrom, strict=True):
            first = torch.round(centre / self._binned.pixel_size_angstrom) - window.grid.side // 2
            end = torch.minimum(first + window.grid.side, first.new_tensor(self._recorded[::-1]))
            found.append(((end - first.clamp(min=0)).clamp(min=0) / window.grid.side).prod(-1))
        return found

    def of_neighbours(self, t: int, shown: Sequence[BandValues]) -> list[BandValues]:
        """Return what windows of an image hold of all other particles, of each species; beyond its rim nothing.

        Parameters
        ----------
        t : number of the image.
        shown : what each particle shows in its own window, (P, K), up to any shell of its band.
        """
        pixel = self._binned.pixel_size_angstrom
        places, boxes = [], []
        for window, centre, values in zip(self._windows, self.centre_angstrom, shown, strict=True):
            whole = values.new_zeros((len(values), len(window.band)))
            whole[:, : values.shape[1]] = values
            boxes.append(window.grid.irfft(window.band.scatter(whole)))
            corner = torch.round(centre[:, t] / pixel).to(torch.int64) - window.grid.side // 2
            offsets = torch.arange(window.grid.side)
            places.append((corner[:, 1, None] + offsets, corner[:, 0, None] + offsets))
        least = [min(int(place[axis].min()) for place in places) for axis in (0, 1)]
        most = [1 + max(int(place[axis].max()) for place in places) for axis in (0, 1)]
        canvas = boxes[0].new_zeros([end - first for first, end in zip(least, most, strict=True)])
        inside = [
            (at >= 0) & (at < end) for at, end in zip(map(torch.arange, least, most), self._recorded, strict=True)
        ]
        is_recorded = (inside[0][:, None] & inside[1]).to(canvas.device)
        where = [
            ((rows - least[0])[:, :, None].to(canvas.device), (columns - least[1])[:, None, :].to(canvas.device))
            for rows, columns in places
        ]
        for at, box in zip(where, boxes, strict=True):
            canvas.index_put_(at, box, accumulate=True)
        return [
            window.band.gather(window.grid.rfft((canvas[at] - box) * is_recorded[at]))[:, : values.shape[1]]
            for window, at, box, values in zip(self._windows, where, boxes, shown, strict=True)
        ]

    def _of(self, t: int) -> list[BandValues]:
        if self._kept is not None and t in self._kept:
            return self._kept[t]
        image = torch.from_numpy(self._source.read([t])[0]).to(self._device)
        ready = prepared(image, self._source.grid, self._binned, self._coarsest)
        found = [
            cut(ready, window, where[:, t])[0] for window, where in zip(self._windows, self._position, strict=True)
        ]
        if self._kept is not None:
            self._kept[t] = found
        return found
