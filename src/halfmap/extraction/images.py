"""Particle images from one micrograph: the order of operations of RELION's extraction, vectorised."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.extraction.normalisation import background_mask, normalise, remove_dust
from halfmap.extraction.params import ExtractParams
from halfmap.extraction.windows import cut, replicate_edges
from halfmap.fourier.resample import crop_or_pad, rescaling_matrix
from halfmap.grid import ImageGrid

CHUNK_BYTES = 4 * 2**20
"""Windows held at once: few enough for the cache, and for the kernel to write in one go."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleImages:
    """A run of particle images.

    Parameters
    ----------
    start : index of the first one among the particles asked for.
    images : float32, shape (n, side, side).
    background_deviation : float64, shape (n,): standard deviation of the background before normalising, in the
        micrograph's grey values; NaN without normalisation.
    """

    start: int
    images: Tensor
    background_deviation: np.ndarray


def particle_images(
    micrograph: Tensor,
    centre_pixel: np.ndarray,
    uid: np.ndarray,
    params: ExtractParams,
    *,
    pixel_size_angstrom: float,
    ctf: Callable[[ImageGrid, np.ndarray], Tensor] | None = None,
) -> Iterator[ParticleImages]:
    """Cut windows from a micrograph and turn them into particle images.

    Parameters
    ----------
    micrograph : real, shape (y, x), as recorded.
    centre_pixel : int, shape (n, 2), (x, y): where the centre voxel of each window lies; no window may lie wholly
        outside.
    uid : int64, shape (n,): keys of the noise that replaces dust.
    params : the settings.
    pixel_size_angstrom : of the micrograph.
    ctf : called with the grid of the windows and the indices of some particles; returns their CTF, shape
        (n or 1, y, x // 2 + 1). Needed for premultiplication and phase flipping alone.

    Yields
    ------
    Runs of images in the order asked for, a bounded number at a time.

    Raises
    ------
    InputError
        The CTF is to be applied, and none is given.

    Notes
    -----
    Order (RELION 5, `Preprocessing::extractParticlesFromOneMicrograph`): window, with the micrograph's mean
    outside; CTF on the larger window; nearest edge pixel outside; Fourier crop; crop; dust; ramp; background
    to mean 0 and deviation 1; inversion.
    """
    micrograph = micrograph.to(torch.float32)
    box = params.box_pixel
    filters = params.premultiply_ctf or params.phase_flip
    padded = (params.premultiply_box_pixel or box) if filters else box
    window_grid = ImageGrid.square(padded, pixel_size_angstrom)
    mask = background_mask(params.image_side, params.background_radius_pixel(pixel_size_angstrom))
    mask = mask.to(micrograph.device)
    mean = float(micrograph.mean(dtype=torch.float64)) if filters else None
    resampling = None
    if params.rescale_pixel is not None:
        resampling = rescaling_matrix(box, params.rescale_pixel).to(micrograph)
    rescaled = ImageGrid.square(params.rescale_pixel or box, params.image_pixel_size_angstrom(pixel_size_angstrom))
    chunk = max(1, CHUNK_BYTES // (4 * padded**2))
    for start in range(0, len(centre_pixel), chunk):
        centres = centre_pixel[start : start + chunk]
        if filters:
            if ctf is None:
                raise InputError("Premultiplying and phase flipping need a CTF; got none; pass ctf.")
            transfer = ctf(window_grid, np.arange(start, start + len(centres)))
            transfer = transfer.sign() if params.phase_flip else transfer
            images = cut(micrograph, centres, padded, fill=mean)
            images = window_grid.irfft(window_grid.rfft(images) * transfer)
            images, _ = crop_or_pad(images, window_grid, (box, box))
            images = replicate_edges(images, centres, (micrograph.shape[0], micrograph.shape[1]))
            if resampling is not None:
                images = resampling @ images @ resampling.T
        else:
            images = cut(micrograph, centres, box, resampling=resampling)
        if params.crop_pixel is not None and params.crop_pixel != rescaled.side:
            images, _ = crop_or_pad(images, rescaled, (params.crop_pixel, params.crop_pixel))
            images = images.contiguous()
        if params.white_dust is not None or params.black_dust is not None:
            images = remove_dust(
                images,
                mask,
                uid[start : start + chunk],
                white=params.white_dust,
                black=params.black_dust,
                seed=params.seed,
            )
        deviation = torch.full((len(images),), torch.nan, dtype=torch.float64)
        if params.normalise:
            images, deviation = normalise(images, mask, ramp=params.ramp, invert=params.invert_contrast)
        elif params.invert_contrast:
            images = images.neg_()
        yield ParticleImages(start=start, images=images, background_deviation=deviation.cpu().numpy())
