"""Denoising a pair of half maps by networks that learn from the pair, each used only where it has not learned."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.data.volumes import Volume
from halfmap.denoising.bands import N_BANDS, N_ENERGIES, band_shells, in_bands
from halfmap.denoising.network import GainNetwork
from halfmap.errors import InconsistentDataError, InputError
from halfmap.fourier import filters
from halfmap.fourier.resample import rescale
from halfmap.grid import ImageGrid
from halfmap.learning.params import TrainingParams
from halfmap.learning.train import fit, initialise

BEYOND = 1.2
"""How far in frequency beyond an FSC of 0.143 a map is denoised by custom: parts of it may be better than the whole."""

N_STEPS = 6
"""Of `denoise`: both halves looked at, two networks taught, both halves denoised."""

N_VOXELS = 1 << 15
"""That each network learns from."""

TRAINING = {"epochs": 8, "batch": 2048, "learning_rate": 5e-3}
_SAMPLING = 3.0  # of the coarser map that is worked on, samples per wavelength at the limit: bands are squared
_ZONES, _THINNEST_PIXEL = 8, 4.0
_VOXELS_AT_ONCE = 1 << 15
_BYTES_OF_GAINS = 600  # of a voxel: layers of the networks
_LEAST_SHELL = 6.0
_LOCAL_FROM_SHELL = 6.0  # a lower band has so few coefficients that chance would tell where it is kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoiser:
    """What was learned from a pair of half maps.

    Parameters
    ----------
    weights : of the two networks: parameters and buffers of `GainNetwork`, by name.
    to_angstrom : resolution beyond which nothing is kept.
    losses : mean loss of each network in each epoch, float64, shape (2, epochs): what is left of a band of the other
        half, as a share of its power, mean over the bands.
    """

    weights: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
    to_angstrom: float
    losses: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class DenoisedMaps:
    """What denoising has made of two half maps.

    Parameters
    ----------
    half1, half2 : each denoised by itself.
    denoiser : what was learned.
    """

    half1: Volume
    half2: Volume
    denoiser: Denoiser

    @property
    def mean(self) -> Volume:
        """The mean of both."""
        return Volume(values=(self.half1.values + self.half2.values) / 2, grid=self.half1.grid)


def custom_limit_angstrom(resolution_angstrom: float, grid: ImageGrid) -> float:
    """Return the resolution to which half maps of a resolution are denoised by custom; see `BEYOND`.

    Raises
    ------
    InputError
        The half maps have no resolution.
    """
    if not math.isfinite(resolution_angstrom):
        raise InputError(
            "Half maps to be denoised must agree somewhere; got an FSC below 0.143 in every shell; name both halves of "
            "one refinement, or say with --to how far to denoise."
        )
    return within_reach_angstrom(resolution_angstrom / BEYOND, grid)


def within_reach_angstrom(to_angstrom: float, grid: ImageGrid) -> float:
    """Return the resolution nearest to one wanted to which maps of a grid can be denoised."""
    coarsest = max(grid.shape) * grid.pixel_size_angstrom / _LEAST_SHELL
    return min(max(to_angstrom, 2 * grid.pixel_size_angstrom), coarsest)


def check_reach(grid: ImageGrid, to_angstrom: float) -> None:
    """Raise `InputError` where maps of a grid cannot be denoised to a resolution."""
    finest, coarsest = 2 * grid.pixel_size_angstrom, max(grid.shape) * grid.pixel_size_angstrom / _LEAST_SHELL
    if not finest * (1 - 1e-6) <= to_angstrom <= coarsest:
        raise InputError(
            f"A map must be denoised to a resolution between {finest:.4g} Å, its Nyquist frequency, and {coarsest:.4g} "
            f"Å, a sixth of its box; got {to_angstrom:g} Å; choose another."
        )


def memory_bytes(grid: ImageGrid, to_angstrom: float) -> int:
    """Return the memory that `denoise` needs beside the maps it is given, in bytes.

    On the coarser grid that is worked on, all bands and energies of one map, and twenty maps of float32 for transforms
    and sums; the voxels that both networks learn from, and those whose gains are worked out at once; three maps on the
    grid of the maps. Measured in boxes of 40, 96 and 144.
    """
    n_coarse = _working_grid(grid, to_angstrom).n_pixels
    learned = 2 * 2 * 4 * N_VOXELS * (N_BANDS + N_ENERGIES)
    gains = _BYTES_OF_GAINS * min(_VOXELS_AT_ONCE, n_coarse)
    return 4 * (N_BANDS + N_ENERGIES + 20) * n_coarse + 2 * learned + gains + 3 * 4 * grid.n_pixels


def denoise(
    half1: Volume,
    half2: Volume,
    to_angstrom: float,
    *,
    seed: int = 1,
    advance: Callable[[int], None] | None = None,
) -> DenoisedMaps:
    """Denoise two half maps.

    Parameters
    ----------
    half1, half2 : unfiltered maps of independent halves, on one grid.
    to_angstrom : resolution beyond which nothing is kept; best somewhat finer than that of the halves, see `BEYOND`.
    seed : of the networks' first weights and the voxels that they learn from.
    advance : called with 1 after each of `N_STEPS`.

    Returns
    -------
    DenoisedMaps

    Raises
    ------
    InconsistentDataError
        The maps differ in sides or pixel size.
    InputError
        The resolution is finer than the maps can hold, or so coarse that there is nothing to tell apart.

    Notes
    -----
    Each half is parted into `N_BANDS` bands b_k; what is kept at a voxel is Σ_k g_k(e) b_k, where e are the energies of
    all bands around it and g, between 0 and 1, is a small network. It learns to make Σ_k |g_k(e of one half) b_k of
    that half − b_k of the other|² least, each band over its power, in both directions. Since the noise of the halves is
    independent, the best gains are those that bring the half nearest to the noise-free map: a Wiener filter whose ratio
    of signal to noise is that of the place. See Lehtinen et al. 2018, "Noise2Noise: learning image restoration without
    clean data"; for cryo-EM maps Tegunov et al. 2021, Nature Methods 18, 186.

    A network has seen a half's noise as its aim, so what it makes of the other half could hold that noise. There are
    therefore two networks, and spherical zones about the centre of the box, the same under any symmetry: each network
    learns in every other zone and is used in those between; where one fades into the other neither has learned. Noise
    is correlated over the reach of a band, so zones are an eighth of the box thick, and bands below shell 6, whose few
    coefficients reach through the whole box, have one gain everywhere.
    """
    if half1.grid != half2.grid:
        raise InconsistentDataError(
            f"Half maps must be on one grid; got {half1.grid} and {half2.grid}; resample one like the other."
        )
    check_reach(half1.grid, to_angstrom)
    working = _working_grid(half1.grid, to_angstrom)
    advance = advance or (lambda _: None)
    share = _share_of_first(working)
    rows = [_voxels(share == number, seed, number) for number in (0, 1)]
    seen = []
    for half in (half1, half2):
        bands, energies = _parted(half, working, to_angstrom)
        seen.append([(bands[:, some].T.contiguous(), energies[:, some].T.contiguous()) for some in rows])
        del bands, energies
        advance(1)
    is_local = torch.tensor(band_shells(_limit_shell(working, to_angstrom))) >= _LOCAL_FROM_SHELL
    weights, losses = [], []
    for number in (0, 1):
        network, loss = _taught(seen[0][number], seen[1][number], is_local, seed, number)
        weights.append({name: value.clone() for name, value in network.state_dict().items()})
        losses.append(loss)
        advance(1)
    denoiser = Denoiser(weights=(weights[0], weights[1]), to_angstrom=to_angstrom, losses=np.stack(losses))
    denoised = []
    for half in (half1, half2):
        denoised.append(denoised_by(denoiser, half))
        advance(1)
    return DenoisedMaps(half1=denoised[0], half2=denoised[1], denoiser=denoiser)


@torch.no_grad()
def denoised_by(denoiser: Denoiser, half: Volume, *, voxels_at_once: int = _VOXELS_AT_ONCE) -> Volume:
    """Denoise a map by what was learned from it and its other half.

    Parameters
    ----------
    half : one of the pair, on its grid.
    voxels_at_once : that networks are given; says nothing about the result.

    Returns
    -------
    Volume, float32.
    """
    check_reach(half.grid, denoiser.to_angstrom)
    working = _working_grid(half.grid, denoiser.to_angstrom)
    share = _share_of_first(working)
    bands, energies = _parted(half, working, denoiser.to_angstrom)
    networks = []
    for kept in denoiser.weights:
        network = GainNetwork()
        network.load_state_dict(kept)
        networks.append(network.eval())
    values = torch.empty(working.n_pixels)
    for first in range(0, working.n_pixels, voxels_at_once):
        some = slice(first, first + voxels_at_once)
        around = energies[:, some].T.contiguous()
        mine = share[some, None]
        gains = mine * networks[0](around) + (1 - mine) * networks[1](around)
        values[some] = (gains * bands[:, some].T).sum(1)
    del bands, energies
    # gains that change from place to place carry content beyond the band
    cut = filters.low_pass(working, denoiser.to_angstrom)
    fine, _ = rescale(filters.apply_filter(values.reshape(working.shape), working, cut), working, half.grid.shape)
    return Volume(values=fine + half.values.double().mean().float(), grid=half.grid)


def _taught(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], is_local: Tensor, seed: int, number: int
) -> tuple[GainNetwork, NDArray[np.float64]]:
    """Fit a network to bands and energies of both halves at some voxels, shapes (n, N_BANDS) and (n, N_ENERGIES)."""
    network = GainNetwork()
    initialise(network, seed + number)
    network.standardise(torch.cat([first[1], second[1]]))
    tiny = torch.finfo(torch.float32).tiny
    power = torch.cat([first[0], second[0]]).square().mean(0).clamp(min=tiny)
    network.start_at((first[0] * second[0]).mean(0) / power, is_local)

    def loss(rows: NDArray[np.int64], epoch: int) -> Tensor:
        some = torch.from_numpy(rows)
        total = torch.zeros(())
        for (bands, energies), (aim, _) in ((first, second), (second, first)):
            total = total + ((network(energies[some]) * bands[some] - aim[some]).square() / power).mean()
        return total / 2

    params = TrainingParams(**TRAINING, seed=seed)  # type: ignore[arg-type]
    return network, fit(network, len(first[0]), loss, params)


def _parted(half: Volume, working: ImageGrid, to_angstrom: float) -> tuple[Tensor, Tensor]:
    values, _ = rescale(half.values.float(), half.grid, working.shape)
    return in_bands(values, working, _limit_shell(working, to_angstrom))


def _limit_shell(grid: ImageGrid, to_angstrom: float) -> float:
    return max(grid.shape) * grid.pixel_size_angstrom / to_angstrom


def _working_grid(grid: ImageGrid, to_angstrom: float) -> ImageGrid:
    """Return the coarsest grid that serves; a box that is not cubic stays as it is."""
    if len(set(grid.shape)) > 1:
        return grid
    wanted = math.ceil(_SAMPLING * _limit_shell(grid, to_angstrom))
    side = min(grid.side, scipy.fft.next_fast_len(wanted + wanted % 2, real=True))
    return ImageGrid.cubic(side, grid.pixel_size_angstrom * grid.side / side)


def _share_of_first(grid: ImageGrid) -> Tensor:
    """Return the share of network 0 in each voxel, the other's is what is left of 1; float32, shape (n voxels,).

    Network 0 learns where it is 0, and network 1 where it is 1: each in a third of the volume.
    """
    thickness = max(_THINNEST_PIXEL, max(grid.shape) / _ZONES) * grid.pixel_size_angstrom
    wave = torch.cos(math.pi * grid.radii() / thickness)
    return (0.5 + wave).clamp(0, 1).float().flatten()


def _voxels(inside: Tensor, seed: int, number: int) -> Tensor:
    """Draw the voxels that a network learns from."""
    of = torch.nonzero(inside).flatten()
    drawn = keyed_random.integers(0, len(of), seed, "voxels to learn from", number, size=N_VOXELS)
    return of[torch.from_numpy(drawn.reshape(-1))]
