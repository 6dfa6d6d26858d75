"""Correlations of one chunk of orientations with a whole micrograph."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.compute.broadcast import Broadcast
from halfmap.compute.device import task_device
from halfmap.compute.progress import task_progress
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.kernels import correlation_maps as kernels
from halfmap.template_matching.global_search.maps import CorrelationMaps
from halfmap.template_matching.global_search.problem import MatchProblem
from halfmap.template_matching.model import ParticleOptics
from halfmap.template_matching.template import Template

TEMPLATE_PIXELS_AT_ONCE = 2**20
"""Pixels of the projections made together."""

GPU_PIXELS_AT_ONCE = 2**27
"""Pixels of the padded templates transformed together on a GPU."""

LEAST_TOGETHER, CPU_PIXELS_AT_ONCE, BLOCK_BYTES = 2, 2**18, 2**19
"""On a CPU: padded templates whose correlations go into the maps in one pass, at least, and as long as they have no
more pixels than that; and bytes of a block of columns or lines of one array, so that it is worked on in the cache."""


def correlate_chunk(problem: Broadcast, chunk: int) -> CorrelationMaps:
    """Correlate with the orientations of a chunk: a task."""
    loaded: MatchProblem = problem.load()
    return Correlator.of(loaded, task_device()).chunk(chunk)


@dataclass(frozen=True, kw_only=True, eq=False)
class Correlator:
    """A micrograph made ready for correlations.

    Parameters
    ----------
    problem : what is searched.
    templates : the template at every pixel size.
    band : of its projections.
    filtered : float32, shape (D, K): CTF at every defocus times the filters.
    noise : float32, shape (K,): what the filters but the whitening multiply noise by.
    straight, turned : complex64, shape (kx, ky): transforms of the micrograph; and of it moved by the template's side
        towards the origin, so that products with the templates' own transforms, not their conjugates, correlate with
        templates turned by 180°.
    """

    problem: MatchProblem
    templates: tuple[Template, ...]
    band: FourierBand
    filtered: Tensor
    noise: Tensor
    straight: Tensor
    turned: Tensor

    @classmethod
    def of(cls, problem: MatchProblem, device: torch.device) -> "Correlator":
        """Make a problem ready on a device."""
        template = problem.template.to(device)
        side, pixel = template.side, template.grid.pixel_size_angstrom
        band = FourierBand(ImageGrid.square(side, pixel), device=device)
        frequency = band.frequencies.norm(dim=-1) * pixel
        offsets = torch.tensor(problem.defocus_offsets_angstrom, dtype=torch.float64, device=device)
        optics = ParticleOptics(
            **{name: value.to(device).expand(len(offsets)) for name, value in vars(problem.optics).items()}
        )
        ctf, _ = optics.with_defocus_added(offsets).ctf(band.frequencies, problem.aberrations)
        shape = problem.padded_shape
        padded = torch.zeros(shape, dtype=torch.float32, device=device)
        padded[: problem.values.shape[0], : problem.values.shape[1]] = problem.values.to(device)
        return cls(
            problem=problem,
            templates=tuple(
                # larger pixels show the template smaller, in pixels
                template if offset == 0 else template.with_pixel_size(pixel * pixel / (pixel + offset))
                for offset in problem.pixel_size_offsets_angstrom
            ),
            band=band,
            filtered=ctf * problem.curves.at(frequency).to(torch.float32),
            noise=problem.curves.other_at(frequency).to(torch.float32),
            straight=torch.fft.rfft2(padded).mT.contiguous(),
            turned=torch.fft.rfft2(padded.roll((-side, -side), dims=(0, 1))).mT.contiguous(),
        )

    def chunk(self, number: int) -> CorrelationMaps:
        """Correlate with the orientations of a chunk."""
        problem = self.problem
        maps = CorrelationMaps.empty(problem.map_shape, device=self.straight.device)
        last = min((number + 1) * problem.units_of_chunk, problem.n_units)
        at_once = max(1, TEMPLATE_PIXELS_AT_ONCE // (problem.template.side**2 * problem.n_together))
        for start in range(number * problem.units_of_chunk, last, at_once):
            self.gather(maps, problem.units(torch.arange(start, min(start + at_once, last))))
        return maps.cpu()

    def gather(self, maps: CorrelationMaps, orientations: Tensor) -> None:
        """Add correlations to maps, in place, and tell the running task's progress.

        Parameters
        ----------
        maps : on the device.
        orientations : int64, shape (R,): first ones of units.
        """
        problem, device = self.problem, self.straight.device
        on_cpu = device.type == "cpu"
        pixels = math.prod(problem.padded_shape)
        together = max(LEAST_TOGETHER, CPU_PIXELS_AT_ONCE // pixels) if on_cpu else max(1, GPU_PIXELS_AT_ONCE // pixels)
        images, numbers = self.projections(orientations), self.numbers(orientations)
        progress = task_progress()
        for first in range(0, len(images), together):
            part = slice(first, first + together)
            (self._gather_in_blocks if on_cpu else self._gather)(maps, images[part], numbers[part])
            progress.advance(len(images[part]) * problem.orientations_of_unit)

    def numbers(self, orientations: Tensor) -> Tensor:
        """Return the numbers of the correlations with `projections`, int32, shape (R · pixel sizes · defoci, 1 or 2).

        The second is that with the template turned by 180° in its plane.
        """
        problem = self.problem
        numbers = (orientations[:, None] * problem.n_together + torch.arange(problem.n_together)).flatten()
        half_turn = len(problem.orientations.psi_degrees) // 2 * problem.n_together
        turns = torch.arange(problem.orientations_of_unit) * half_turn
        return (numbers[:, None] + turns).to(self.straight.device, torch.int32)

    def scores(self, images: Tensor) -> Tensor:
        """Return correlations, float32, shape (B · 1 or 2, h, w or more): those with turned templates come last.

        Parameters
        ----------
        images : shape (B, n, n), of `projections`.
        """
        problem = self.problem
        height, width = problem.padded_shape
        lines = torch.fft.rfft(images, n=width, dim=-1)
        transforms = torch.fft.fft(lines, n=height, dim=-2).mT
        products = self.straight * transforms.conj()
        if problem.orientations_of_unit == 2:
            products = torch.cat([products, self.turned * transforms])
        columns = torch.fft.ifft(products, dim=-1)[..., : problem.map_shape[0]]
        return torch.fft.irfft(columns.mT, n=width, dim=-1)

    def _gather(self, maps: CorrelationMaps, images: Tensor, numbers: Tensor) -> None:
        maps.gather(self.scores(images), numbers.mT.flatten())

    def _gather_in_blocks(self, maps: CorrelationMaps, images: Tensor, numbers: Tensor) -> None:
        """Do the same as `_gather`, a block of columns at a time, then a block of lines."""
        height, width = self.problem.padded_shape
        n_columns, rows = width // 2 + 1, self.problem.map_shape[0]
        numbers = numbers.mT.flatten()
        lines = torch.fft.rfft(images, n=width, dim=-1).mT.contiguous()
        half = torch.empty((len(numbers), rows, n_columns), dtype=torch.complex64)
        straight, turned = _pairs(self.straight), _pairs(self.turned)
        step = max(1, BLOCK_BYTES // (8 * height * len(images)))
        for first in range(0, n_columns, step):
            part = slice(first, first + step)
            transforms = torch.fft.fft(lines[:, part], n=height, dim=-1)
            products = torch.empty((len(numbers), *transforms.shape[1:]), dtype=torch.complex64)
            kernels.multiply_both(straight[part], turned[part], _pairs(transforms), _pairs(products))
            kernels.place_columns(_wide(torch.fft.ifft(products, dim=-1)), _wide(half), first)
        step = max(1, BLOCK_BYTES // (4 * width * len(numbers)))
        for first in range(0, rows, step):
            maps.gather(torch.fft.irfft(half[:, first : first + step], n=width, dim=-1), numbers, first)

    def projections(self, orientations: Tensor) -> Tensor:
        """Return filtered projections of the template, float32, shape (R · pixel sizes · defoci, n, n).

        Notes
        -----
        The mean of a projection's edges is taken off, so that it ends without a step. The scale makes the correlation
        with white noise, filtered as the micrograph is, one of standard deviation 1: what a projection correlates with
        has mean 0, so its own mean over the micrograph counts for nothing.
        """
        problem, grid = self.problem, self.band.grid
        rotations = problem.aberrations.rotations(problem.orientations.rotations(orientations))
        bare = torch.stack([template.slices(rotations, self.band) for template in self.templates], dim=1)
        values = bare[:, :, None] * self.filtered
        strength = torch.view_as_real(values).square().sum(-1)
        coloured = (strength @ self.noise.square()) / strength.sum(-1).clamp(min=1e-30)
        images = grid.irfft(self.band.scatter(values)).flatten(0, 2)
        edges = images[:, [0, -1]].sum((1, 2)) + images[:, 1:-1, [0, -1]].sum((1, 2))
        images = images - (edges / (4 * grid.side - 4))[:, None, None]
        pixels = problem.values.shape[0] * problem.values.shape[1]
        squares = images.square().sum((1, 2)) - images.sum((1, 2)).square() / pixels
        return images * (squares * coloured.flatten()).clamp(min=1e-30).rsqrt()[:, None, None]


def _pairs(values: Tensor) -> NDArray[np.float32]:
    """View complex numbers as pairs of real ones, shape (..., 2)."""
    return torch.view_as_real(values).numpy()


def _wide(values: Tensor) -> NDArray[np.float64]:
    """View complex numbers as one of eight bytes each, of no meaning."""
    return values.numpy().view(np.float64)
