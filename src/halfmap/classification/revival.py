"""Reviving classes that have lost their particles: which class is replaced by what.

An empty class is worth nothing, and a reference of noise or blobs that is put in its place loses every
particle to the established ones at once. So a class that is hardly used is replaced by a twin of a
class that holds much, and the two are made to differ by a small random pattern, so that they can part.

Notes
-----
Identical twins never part: both get half of every particle. If they differ by ±d, a particle with residual r
goes to the first with log-odds 2 d·r/σ², and the next averages differ by E[r tanh(d·r/σ²)] ≈ Σ d/σ², Σ being the
covariance of residuals: EM multiplies the difference by that covariance in units of noise, 1 along directions
of pure noise, 1 + λ along one in which particles of the class really differ. A small difference in *all*
directions of the class's own spectrum therefore grows into its first principal component within
a few iterations; where particles do not differ, it stays small and both twins remain good averages.
A large difference is worse, because it divides particles by chance before that has happened, and so is
the difference of two random halves, which each particle's own noise holds together. A copy that is
merely dampened divides particles by contrast.
"""

from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from halfmap import keyed_random
from halfmap.errors import InputError, ShapeError
from halfmap.fourier import shells
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.inference import vdam
from halfmap.inference.vdam import Moments
from halfmap.tensors import BandValues, Images

_LAST_SHARE_OF_EM = 0.6


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """That one class becomes the twin of another.

    Parameters
    ----------
    dead : index of the class that is given up, from 0.
    donor : index of the class whose particles the two share from now on.
    """

    dead: int
    donor: int


def is_time(algorithm: str, iteration: int, n_iterations: int) -> bool:
    """Say whether classes are replaced after an iteration.

    Returns
    -------
    For EM from the second iteration to 60 % of all, so that ten of the usual 25 remain to settle; for VDAM within
    the second phase, as in RELION.

    Raises
    ------
    InputError
        Another algorithm.
    """
    if algorithm == "em":
        return 2 <= iteration <= _LAST_SHARE_OF_EM * n_iterations
    if algorithm == "vdam":
        first, between, _ = vdam.phases(n_iterations)
        return first < iteration < first + between
    raise InputError(f"The algorithm must be em or vdam; got {algorithm!r}.")


def replacement(
    fractions: ArrayLike | Tensor,
    n_particles: int,
    *,
    misfit: ArrayLike | Tensor | None = None,
    inactivity: float = 0.1,
    least_particles: float = 3.0,
) -> Replacement | None:
    """Choose the class to replace after an iteration, and by which.

    Parameters
    ----------
    fractions : shape (C,)
        Expected shares of the classes.
    n_particles : of which they are shares.
    misfit : shape (C,)
        How badly each class describes its particles, summed over them: `excess_residual` of EM. Where left out,
        the fractions: the class with most particles. Classes with nan are no donors.
    inactivity : share of the mean of classes in use below which a class counts as dead.
    least_particles : expected number of particles below which it does too.

    Returns
    -------
    The least used class, if it is dead, and the class with the largest misfit among those whose half would still be
    above the threshold. None where there is no such pair.

    Raises
    ------
    ShapeError
        Misfit and fractions differ in length.
    """
    shares = torch.as_tensor(fractions, dtype=torch.float64)
    errors = shares if misfit is None else torch.as_tensor(misfit, dtype=torch.float64)
    if shares.ndim != 1 or errors.shape != shares.shape:
        raise ShapeError(
            f"Fractions and misfits must have one value for each class; got {tuple(shares.shape)} and "
            f"{tuple(errors.shape)}."
        )
    in_use = max(int((shares > 0).sum()), 1)
    threshold = max(inactivity / in_use, least_particles / max(n_particles, 1))
    dead = int(shares.argmin())
    able = (shares / 2 >= threshold) & ~errors.isnan()
    if not float(shares[dead]) < threshold or not bool(able.any()):
        return None
    donor = int(torch.where(able, errors, torch.full_like(errors, -torch.inf)).argmax())
    return Replacement(dead=dead, donor=donor)


def excess_residual(power: Tensor, data: BandValues, weight: Tensor, references: BandValues, counts: Tensor) -> Tensor:
    """Return how much larger the residuals of each class are than those of a particle on average.

    Parameters
    ----------
    power : shape (C,)
        Σ_i w_ic Σ_k |X_ik|²/σ²_k over the band, of the images that `data` sums.
    data, weight : shape (C, K)
        The sums of the M-step, Σ w C X/σ² and Σ w C²/σ².
    references : shape (C, K), those of the E-step.
    counts : shape (C,), Σ_i w_ic.

    Returns
    -------
    float64, shape (C,)
        Σ_i w_ic (χ²_i − mean χ² of all particles), not below 0; χ² = Σ_k |X − C P|²/σ².

    Notes
    -----
    The residuals follow from sums that EM has anyway: |X|² − 2 Re X (C P)* + |C P|². A class that mixes views has
    their distance in its residuals.
    """
    cross = (data.real * references.real + data.imag * references.imag).to(torch.float64).sum(-1)
    predicted = (weight * (references.real.square() + references.imag.square())).to(torch.float64).sum(-1)
    residual = power.to(torch.float64) - 2 * cross + predicted
    counts = counts.to(torch.float64)
    mean = residual.sum() / counts.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return (residual - counts * mean).clamp_min(0.0)


def difference(
    average: Images,
    grid: ImageGrid,
    mask_diameter_angstrom: float,
    *,
    seed: int,
    iteration: int,
    share: float = 0.02,
    mask_edge_angstrom: float = 0.0,
) -> Images:
    """Return the pattern by which twins are made to differ.

    Parameters
    ----------
    average : shape (y, x), the donor's.
    mask_diameter_angstrom : of the circular mask outside of which the pattern is 0.
    seed, iteration : another pattern for every seed and iteration.
    share : root mean square of the pattern in units of the average's within the mask.
    mask_edge_angstrom : width of the mask's soft edge.

    Returns
    -------
    Shape (y, x): random, of the average's own power spectrum, and at right angles to what a change of contrast, a
    small shift and a small rotation would do to the average, because particles always differ in these.
    """
    grid.check(average, "An average")
    image = average.detach().to("cpu", torch.float64)
    mask = soft_disc(grid, mask_diameter_angstrom / 2, mask_edge_angstrom, dtype=torch.float64)
    transform = grid.rfft(image * mask)
    white = torch.from_numpy(keyed_random.normal(seed, "difference of twins", 0, iteration=iteration, size=grid.shape))
    spectrum = shells.spread(shells.power_spectrum(transform, grid).sqrt(), grid)
    pattern = (grid.irfft(grid.rfft(white) * spectrum) * mask).flatten()

    gradient = grid.irfft(transform * (2j * torch.pi) * grid.frequencies().movedim(-1, 0))
    position = grid.positions().movedim(-1, 0)
    turned = position[0] * gradient[1] - position[1] * gradient[0]
    along = torch.stack([image * mask, gradient[0] * mask, gradient[1] * mask, turned * mask]).flatten(1)
    lengths = along.norm(dim=1, keepdim=True)
    basis = torch.linalg.qr((along / lengths.clamp_min(torch.finfo(torch.float64).tiny)).T).Q
    # rounding must not reach beyond the mask
    pattern = (pattern - basis @ (basis.T @ pattern)) * (mask > 0).flatten()

    norm = pattern.norm().clamp_min(torch.finfo(torch.float64).tiny)
    return (pattern * (share * lengths[0] / norm)).reshape(grid.shape).to(average.device, average.dtype)


def divided(
    references: Tensor, fractions: Tensor, replacement: Replacement, difference: Tensor
) -> tuple[Tensor, Tensor]:
    """Put twins in the places of a donor and a dead class.

    Parameters
    ----------
    references : shape (C, ...)
        Images, or their values in a band.
    fractions : shape (C,).
    difference : shape (...), of `difference`, in the same space.

    Returns
    -------
    References and fractions of the same shapes: donor plus and minus the difference; each has half of the donor's
    share, and all shares add up to what they did.
    """
    dead, donor = replacement.dead, replacement.donor
    images, shares = references.clone(), fractions.clone()
    images[donor], images[dead] = references[donor] + difference, references[donor] - difference
    total = fractions.sum()
    shares[donor] = shares[dead] = fractions[donor] / 2
    return images, shares * (total / shares.sum())


def divided_moments(moments: Moments, replacement: Replacement, difference: BandValues) -> Moments:
    """Divide what is remembered of a donor between twins; the dead class is forgotten.

    Parameters
    ----------
    difference : complex, shape (K,), of `difference`, in the moments' band.

    Returns
    -------
    Each twin has half of the donor's evidence, moved so that its averages differ from the donor's by the same
    pattern as its reference. Were the memory left as it is, it would pull the twins together again.
    """
    dead, donor = replacement.dead, replacement.donor
    first, second = moments.first.clone(), moments.second.clone()
    half_first, half_second = moments.first[:, donor] / 2, moments.second[:, donor] / 2
    moved = half_second * difference.to(first.dtype)
    first[:, donor], first[:, dead] = half_first + moved, half_first - moved
    second[:, donor] = second[:, dead] = half_second
    return Moments(first=first, second=second)
