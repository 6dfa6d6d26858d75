"""The motion that makes groups of frames agree best: a search, then Newton's steps on a likelihood."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.errors import InputError
from halfmap.motion_correction.spectra import PatchSpectra
from halfmap.splines.grids import SplineGrid

_SEARCHES = 4
_COARSE_FACTOR = 4.0
_MOST_STEPS = 12
_LEAST_STEP_PIXEL = 3e-2
"""Steps end where no shift moves by more against the mean of its patch; the error left is far smaller."""

_ACCELERATION_PIXEL = 2.0
"""Expected change of the whole frame's step from one group to the next, root mean square."""

_LOCAL_STEP_PIXEL = 1.5
"""Expected change of local motion from one node in time to the next, root mean square."""

_LOCAL_PIXEL = 4.0
"""Expected size of local motion, root mean square."""

_GROUPS_PER_NODE = 4
_MOST_NODES_OF_TIME, _MOST_NODES_OF_PLACE = 8, 3


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedMotion:
    """Shifts in pixels, by which content is moved back.

    Parameters
    ----------
    whole : (T, 2), (x, y) of each group; 0 of the first.
    local_x, local_y : grids over (x, y, frame); 0 in the first frame.
    agreement : (T,), correlation of each group with the sum of the others.
    is_used : (T,), groups that took part.
    """

    whole: NDArray[np.float64]
    local_x: SplineGrid
    local_y: SplineGrid
    agreement: NDArray[np.float64]
    is_used: NDArray[np.bool_]


def search(spectra: PatchSpectra, is_used: NDArray[np.bool_], max_shift_pixel: float | None = None) -> Tensor:
    """Return the shift of each group by the peak of its correlation with the others, in pixels, float64, (T, 2).

    Parameters
    ----------
    spectra : of the movie.
    is_used : (T,), groups that the others are compared with.
    max_shift_pixel : largest shift; None for a quarter of a patch.

    Notes
    -----
    Correlations are added over all patches. The first passes are of coarser detail.
    """
    patch = spectra.patch_pixel
    limit = max_shift_pixel or min(patch) / 4
    shifts = torch.zeros((len(spectra.groups), 2), dtype=torch.float64)
    scale = _inverse_power(spectra)
    used = torch.from_numpy(is_used)
    for step in range(_SEARCHES):
        factor = _COARSE_FACTOR if step < _SEARCHES - 2 else 1.0
        weight = (spectra.weight**factor * scale).float()
        moved = _moved(spectra, shifts[:, None].expand(-1, len(spectra.centre), -1))
        total = (moved * used[:, None, None]).sum(0)
        found = torch.zeros_like(shifts)
        for group in range(len(shifts)):
            others = total - moved[group] * bool(used[group])
            product = (moved[group].conj() * others * weight).sum(0)
            found[group] = _peak(product, spectra, shifts[group], limit)
        shifts = shifts + found
        if float(found.abs().max()) < 0.1 and step >= _SEARCHES - 2:
            break
    return shifts


def agreements(spectra: PatchSpectra, shifts: Tensor, is_used: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the correlation of each group with the sum of the others, (T,); shifts of shape (T, P, 2)."""
    moved = _moved(spectra, shifts)
    used = torch.from_numpy(is_used)
    total = (moved * used[:, None, None]).sum(0)
    weight = (spectra.weight * _inverse_power(spectra)).float()
    found = []
    for group in range(len(moved)):
        others = total - moved[group] * bool(used[group])
        shared = float((_real_product(moved[group], others) * weight).sum())
        sizes = float((_squared(moved[group]) * weight).sum() * (_squared(others) * weight).sum())
        found.append(shared / math.sqrt(sizes) if sizes > 0 else 0.0)
    return np.array(found)


def fit(spectra: PatchSpectra, start: Tensor, is_used: NDArray[np.bool_], *, local: bool = True) -> FittedMotion:
    """Refine the motion of the whole frame, and what differs from place to place.

    Parameters
    ----------
    spectra : of the movie.
    start : float64, (T, 2), of `search`.
    is_used : (T,), groups that take part; the shifts of others follow from their neighbours in time.
    local : whether to find local motion.

    Returns
    -------
    FittedMotion

    Raises
    ------
    InputError
        Fewer than two groups are used.

    Notes
    -----
    For frames that show the same image F under white noise, the likelihood maximised over that image is
    Σ_k w |Σ_t G_t(k)|² / (n σ²(k)), where G_t are the frames moved back, σ² their power on a ring and w the share that
    counts. Its gradient is exact, and is that of the agreement of each frame with the sum of the others. Steps are
    Newton's, with the curvature expected when all frames show the same, which the penalty of the motion's size makes
    definite; a step that does not raise the posterior is halved.
    """
    if is_used.sum() < 2:
        raise InputError("Two groups of frames or more must agree; got fewer; look at the movie.")
    problem = _Problem.of(spectra, start, torch.from_numpy(is_used), local=local)
    values = problem.start
    moved = problem.moved(values)
    objective = problem.objective(values, moved)
    for _ in range(_MOST_STEPS):
        step = problem.step(values, moved)
        for _halving in range(4):
            trial = values + step
            trial_moved = problem.moved(trial)
            trial_objective = problem.objective(trial, trial_moved)
            if trial_objective >= objective:
                break
            step = step / 2
        else:
            break
        values, moved, objective = trial, trial_moved, trial_objective
        if problem.size_pixel(step) < _LEAST_STEP_PIXEL:
            break
    return problem.result(values)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Problem:
    """Unknowns are shifts of groups and nodes of local motion, (N, 2) with (x, y) last.

    Parameters
    ----------
    design : (T, P, N), from unknowns to shifts.
    precision : (N, N), of the prior.
    density : (K,), weight over noise.
    """

    spectra: PatchSpectra
    start: Tensor
    used: Tensor
    design: Tensor
    precision: Tensor
    density: Tensor
    shape_of_local: tuple[int, int, int]

    @classmethod
    def of(cls, spectra: PatchSpectra, start: Tensor, used: Tensor, *, local: bool) -> "_Problem":
        n_groups, n_patches = len(spectra.groups), len(spectra.centre)
        shape = _local_shape(spectra) if local else (0, 0, 0)
        n_local = math.prod(shape)
        whole = torch.eye(n_groups, dtype=torch.float64)[:, None].expand(-1, n_patches, -1)
        precision = torch.zeros((n_groups + n_local, n_groups + n_local), dtype=torch.float64)
        second = torch.diff(torch.eye(n_groups, dtype=torch.float64), n=2, dim=0) / _ACCELERATION_PIXEL
        precision[:n_groups, :n_groups] = second.T @ second
        # the common shift of all groups is free: it is held lightly, and taken off at the end
        precision[:n_groups, :n_groups] += torch.eye(n_groups, dtype=torch.float64) * 1e-6
        parts = [whole]
        if local:
            parts.append(_local_design(spectra, shape))
            step = torch.diff(torch.eye(shape[0], dtype=torch.float64), dim=0) / _LOCAL_STEP_PIXEL
            over_time = step.T @ step + torch.eye(shape[0], dtype=torch.float64) / _LOCAL_PIXEL**2
            precision[n_groups:, n_groups:] = torch.kron(over_time, torch.eye(n_local // shape[0], dtype=torch.float64))
        overlap = n_patches * math.prod(spectra.patch_pixel) / _field_pixels(spectra)
        return cls(
            spectra=spectra,
            start=torch.cat([start, torch.zeros((n_local, 2), dtype=torch.float64)]),
            used=used,
            design=torch.cat(parts, dim=-1),
            precision=precision,
            density=2 * spectra.weight * _inverse_power(spectra) / (float(used.sum()) * max(overlap, 1.0)),
            shape_of_local=shape,
        )

    def shifts(self, values: Tensor) -> Tensor:
        """Return the shifts of all patches, (T, P, 2)."""
        return self.design @ values

    def moved(self, values: Tensor) -> Tensor:
        return _moved(self.spectra, self.shifts(values)) * self.used[:, None, None]

    def objective(self, values: Tensor, moved: Tensor) -> float:
        likelihood = (_squared(moved.sum(0)).double() * self.density).sum() / 2
        return float(likelihood - (values * (self.precision @ values)).sum() / 2)

    def step(self, values: Tensor, moved: Tensor) -> Tensor:
        """Return the step of all unknowns."""
        total = moved.sum(0)
        turn = 2 * math.pi * self.spectra.frequency
        factors = (turn * self.density[:, None]).float()
        n_used = int(self.used.sum())
        gradient = torch.zeros((*moved.shape[:2], 2), dtype=torch.float64)
        for group in torch.nonzero(self.used).flatten().tolist():
            one = moved[group]
            gradient[group] = ((total.real * one.imag - total.imag * one.real) @ factors).double()
        # of each pair of groups, if all agree as they do on average
        shared = (_squared(total) - _squared(moved).sum(0)).double() / (n_used * (n_used - 1))
        products = turn[:, :, None] * turn[:, None, :] * self.density[:, None, None]
        curvature = _definite(torch.einsum("pk,kab->pab", shared, products))
        n = values.shape[0]
        hessian = torch.kron(torch.eye(2, dtype=torch.float64), self.precision)
        # in curvature, groups are tied to their mean: the sum of all is what they are compared with
        weights = self.used.double()
        for patch in range(moved.shape[1]):
            design = self.design[:, patch] * weights[:, None]
            mean = design.sum(0) / n_used
            centred = (design - mean) * weights[:, None]
            hessian += torch.kron(curvature[patch], centred.T @ centred * n_used)
        slope = torch.einsum("tpn,tpa->na", self.design, gradient) - self.precision @ values
        return torch.linalg.solve(hessian, slope.T.reshape(-1)).reshape(2, n).T

    def size_pixel(self, step: Tensor) -> float:
        """Return how far a step moves a used group, at most, against the mean of its patch, which is free."""
        shifts = self.shifts(step)[self.used]
        return float((shifts - shifts.mean(0)).abs().max())

    def result(self, values: Tensor) -> FittedMotion:
        n_groups = len(self.spectra.groups)
        whole, nodes = values[:n_groups], values[n_groups:]
        if len(nodes):
            local = nodes.T.reshape(2, *self.shape_of_local)
            local = local - local[:, :1]
        else:
            local = torch.zeros((2, 1, 1, 1), dtype=torch.float64)
        used = self.used.numpy()
        return FittedMotion(
            whole=(whole - whole[0]).numpy(),
            local_x=SplineGrid(values=local[0]),
            local_y=SplineGrid(values=local[1]),
            agreement=agreements(self.spectra, self.shifts(values), used),
            is_used=used,
        )


def _local_shape(spectra: PatchSpectra) -> tuple[int, int, int]:
    """Return the nodes of local motion, (time, y, x)."""
    columns, rows = (len(np.unique(spectra.centre[:, axis])) for axis in range(2))
    times = min(_MOST_NODES_OF_TIME, max(2, 1 + len(spectra.groups) // _GROUPS_PER_NODE))
    return times, min(rows, _MOST_NODES_OF_PLACE), min(columns, _MOST_NODES_OF_PLACE)


def _local_design(spectra: PatchSpectra, shape: tuple[int, int, int]) -> Tensor:
    """Return how shifts follow from local nodes, (T, P, nodes)."""
    grid = SplineGrid.constant(0.0, shape)
    n = len(spectra.groups)
    time = torch.from_numpy(spectra.time / (len(spectra.frame_mean) - 1))
    centre = torch.from_numpy(spectra.centre)
    of_time, of_y, of_x = (
        grid.weights_along(2, time),
        grid.weights_along(1, centre[:, 1]),
        grid.weights_along(0, centre[:, 0]),
    )
    return torch.einsum("tz,py,px->tpzyx", of_time, of_y, of_x).reshape(n, len(centre), -1)


def _moved(spectra: PatchSpectra, shifts: Tensor) -> Tensor:
    """Return the spectra with content moved by shifts, (T, P, 2) in pixels."""
    moved = torch.empty_like(spectra.values)
    frequency = spectra.frequency.float().T * (-2 * math.pi)
    for group in range(len(moved)):
        turns = shifts[group].float() @ frequency
        torch.mul(spectra.values[group], torch.complex(torch.cos(turns), torch.sin(turns)), out=moved[group])
    return moved


def _inverse_power(spectra: PatchSpectra) -> Tensor:
    """Return one over the mean power of all groups on rings, float64, (K,)."""
    power = torch.zeros(len(spectra.frequency), dtype=torch.float64)
    for group in spectra.values:
        power += _squared(group).mean(0)
    power /= len(spectra.values)
    ring = (spectra.frequency.square().sum(-1).sqrt() * max(spectra.patch_pixel)).round().long()
    counts = torch.bincount(ring).clamp(min=1)
    means = torch.bincount(ring, weights=power) / counts
    return 1 / means[ring].clamp(min=torch.finfo(torch.float32).tiny)


def _real_product(first: Tensor, second: Tensor) -> Tensor:
    return first.real * second.real + first.imag * second.imag


def _squared(values: Tensor) -> Tensor:
    return values.real.square() + values.imag.square()


def _peak(product: Tensor, spectra: PatchSpectra, offset: Tensor, limit: float) -> Tensor:
    """Return where a correlation is largest, by a parabola through the pixels around, where offset + it is allowed."""
    height, width = spectra.box
    binning = spectra.patch_pixel[0] // height
    flat = torch.zeros(height * (width // 2 + 1), dtype=torch.complex64)
    flat[spectra.index] = product
    image = torch.fft.irfft2(flat.reshape(height, width // 2 + 1), s=(height, width))
    y = torch.fft.fftfreq(height, 1 / height, dtype=torch.float64) * binning
    x = torch.fft.fftfreq(width, 1 / width, dtype=torch.float64) * binning
    is_far = ((y + offset[1]).square()[:, None] + (x + offset[0]).square()[None]) > limit**2
    place = int(torch.where(is_far, torch.full_like(image, -math.inf), image).argmax())
    row, column = divmod(place, width)
    along_y = image[[(row - 1) % height, row, (row + 1) % height], column]
    along_x = image[row, [(column - 1) % width, column, (column + 1) % width]]
    return torch.stack([x[column] + binning * _vertex(along_x), y[row] + binning * _vertex(along_y)])


def _vertex(values: Tensor) -> Tensor:
    bend = values[0] - 2 * values[1] + values[2]
    vertex = (values[0] - values[2]) / (2 * bend) if float(bend) < 0 else torch.zeros(())
    return vertex.double().clamp(-0.5, 0.5)


def _definite(curvature: Tensor) -> Tensor:
    """Return the curvature of patches, (P, 2, 2), none less than a tenth of their mean, which must be positive."""
    mean = torch.linalg.eigvalsh(curvature.mean(0)).mean().clamp(min=1e-12)
    values, vectors = torch.linalg.eigh(curvature)
    return vectors @ torch.diag_embed(values.clamp(min=float(mean) / 10)) @ vectors.mT


def _field_pixels(spectra: PatchSpectra) -> float:
    """Return the pixels that patches cover, by how far their centres lie apart."""
    total = 1.0
    for axis, side in ((0, spectra.patch_pixel[1]), (1, spectra.patch_pixel[0])):
        places = np.unique(spectra.centre[:, axis])
        total *= side * (1 + (len(places) - 1) / 1.25)
    return total
