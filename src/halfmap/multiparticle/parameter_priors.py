"""What is expected of parameters before images are looked at: Gaussian, about where a refinement begins."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from halfmap.multiparticle.parameter_layout import Block, Layout
from halfmap.optics.aberrations import even_index, odd_index, zernike

STATED_RESOLUTION_ANGSTROM = 3.0
"Up to where widths of aberrations are stated."
_RADII, _AZIMUTHS = 48, 24
"Of the sums over the band; polynomials of the fifth order are exact to 1e-3."


def shared_precision(layout: Layout) -> Tensor:
    """Return the inverse covariance of the shared parameters, float64, (n_shared, n_shared).

    Notes
    -----
    A block's is the sum of 1/width² for each node, 1/step² for each difference between neighbours in time and 1/bend²
    for each second difference between neighbours in space. Grids with a node for each tilt take neighbours in order of
    dose. Frozen nodes count as neighbours that do not move.
    Of aberrations it is ⟨Zᵢ Zⱼ⟩ / width², the mean over all frequencies up to `STATED_RESOLUTION_ANGSTROM`: what counts
    is the mean square of the phase that they turn together. Zernike polynomials of frequencies far below 1/Å are
    nearly all shift or defocus, so each by itself may have to be large where another takes that away again.
    Widths keep every direction of the gauge finite: a movement of all images that particles could take up instead, or
    turns of the stage and of all particles.
    """
    whole = torch.zeros((layout.n_shared, layout.n_shared), dtype=torch.float64)
    for field in ("odd_zernike", "even_zernike"):
        _add_aberrations(whole, [block for block in layout.blocks if block.field == field])
    for block in layout.blocks:
        if block.coefficients:
            continue
        where = slice(block.first, block.first + block.n_parameters)
        whole[where, where] = _block_precision(block, layout.image_order)[block.n_frozen :, block.n_frozen :]
    return whole


def particle_precision(layout: Layout) -> Tensor:
    """Return the inverse covariance of a particle's own parameters, float64, (n_particle, n_particle)."""
    n, widths = layout.n_samples, layout.widths
    positions = _path_precision(n, widths.position_angstrom, widths.position_step_angstrom)
    degree = torch.pi / 180
    turns = _path_precision(n, widths.angle_degrees * degree, widths.angle_step_degrees * degree)
    parts = [
        torch.kron(positions, torch.eye(layout.position_axes, dtype=torch.float64)),
        torch.kron(turns, torch.eye(layout.angle_axes, dtype=torch.float64)),
    ]
    if layout.has_own_defocus:
        parts.append(torch.full((1, 1), widths.defocus_angstrom**-2, dtype=torch.float64))
    kept = [part for part in parts if part.numel()]
    return torch.block_diag(*kept) if kept else torch.zeros((0, 0), dtype=torch.float64)


def _add_aberrations(whole: Tensor, blocks: Sequence[Block]) -> None:
    """Put the precision of all odd or all even aberrations in its place."""
    if not blocks:
        return
    index, n_before = (odd_index, 0) if blocks[0].field == "odd_zernike" else (even_index, 1)
    radius = (torch.arange(_RADII, dtype=torch.float64) + 0.5) / _RADII / STATED_RESOLUTION_ANGSTROM
    azimuth = torch.arange(_AZIMUTHS, dtype=torch.float64) * (2 * math.pi / _AZIMUTHS)
    frequencies = radius[:, None, None] * torch.stack([azimuth.cos(), azimuth.sin()], dim=-1)

    def phase(coefficients: Mapping[int, float]) -> Tensor:
        parts = [factor * zernike(frequencies, *index(i + n_before)) for i, factor in coefficients.items()]
        return torch.stack(parts).sum(0)

    phases = torch.stack([phase(one) / block.width for block in blocks for one in block.coefficients]).flatten(1)
    weight = (radius / radius.sum() / _AZIMUTHS).repeat_interleave(_AZIMUTHS)
    columns = torch.cat([block.first + torch.arange(block.n_parameters) for block in blocks])
    whole[columns[:, None], columns] = (phases * weight) @ phases.T


def _path_precision(n: int, width: float, step: float) -> Tensor:
    return torch.eye(n, dtype=torch.float64) / width**2 + _squared(_differences(n)) / step**2


def _block_precision(block: Block, image_order: Tensor) -> Tensor:
    shape = block.shape if len(block.shape) > 1 else (1, *block.shape)
    n_time, space = shape[0], shape[1:]
    n_space = torch.Size(space).numel()
    precision = torch.eye(n_time * n_space, dtype=torch.float64) / block.width**2
    if block.step is not None:
        steps = _differences(n_time)
        if n_time == len(image_order):
            steps = steps[:, torch.argsort(image_order)]
        precision += torch.kron(_squared(steps), torch.eye(n_space, dtype=torch.float64)) / block.step**2
    if block.bend is not None:
        precision += torch.kron(torch.eye(n_time, dtype=torch.float64), _bends(space)) / block.bend**2
    return precision


def _bends(space: tuple[int, ...]) -> Tensor:
    """Return the sum of squared second differences along each axis of a grid in space, as a matrix."""
    total = torch.zeros((torch.Size(space).numel(),) * 2, dtype=torch.float64)
    for axis in range(len(space)):
        part = torch.ones((1, 1), dtype=torch.float64)
        for other, n in enumerate(space):
            along = _squared(_differences(n, order=2)) if other == axis else torch.eye(n, dtype=torch.float64)
            part = torch.kron(part, along)
        total += part
    return total


def _differences(n: int, order: int = 1) -> Tensor:
    return torch.diff(torch.eye(n, dtype=torch.float64), n=order, dim=0) if n > order else torch.zeros((0, n)).double()


def _squared(matrix: Tensor) -> Tensor:
    return matrix.T @ matrix
