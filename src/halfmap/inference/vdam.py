"""VDAM: schedules of mini-batches, and the update of references from the sums of one.

Iterations count from 1. A run has three phases: a first one of small mini-batches and long steps, one
in which both change, and a last one of large mini-batches and short steps. Its last iteration takes
every particle.

References, gradients and curvatures hold one value for each coefficient of a `FourierBand` of the
unpadded image grid, on the scale of the images.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.errors import InputError, ShapeError
from halfmap.tensors import BandValues

_FIRST_SHARE, _LAST_SHARE = 0.3, 0.2


class Sizes(NamedTuple):
    """Particles of the mini-batches of the first and of the last phase; None: by the number of all particles."""

    first: int | None = None
    last: int | None = None


class Steps(NamedTuple):
    """η of the first and of the last phase."""

    first: float = 0.9
    last: float = 0.3


_USUAL_SIZES, _USUAL_STEPS = Sizes(), Steps()


def phases(n_minibatches: int) -> tuple[int, int, int]:
    """Return the numbers of mini-batches of the three phases: 60, 100 and 40 of 200.

    Raises
    ------
    InputError
        There is no mini-batch.
    """
    if n_minibatches < 1:
        raise InputError(f"The number of mini-batches must be at least 1; got {n_minibatches}; 200 is usual.")
    first, last = round(_FIRST_SHARE * n_minibatches), round(_LAST_SHARE * n_minibatches)
    return first, n_minibatches - first - last, last


def minibatch_size(iteration: int, n_minibatches: int, n_particles: int, sizes: Sizes = _USUAL_SIZES) -> int:
    """Return how many particles an iteration takes.

    Parameters
    ----------
    iteration : from 1 to ``n_minibatches``.
    sizes : that are asked for.

    Returns
    -------
    Unless asked otherwise, in the first phase 0.5 % of all, but 200 to 10,000; in the last 5 %, but 1,000 to 100,000;
    linear between. All particles where that would be more than half of them, and in the last iteration.

    Raises
    ------
    InputError
        The iteration lies outside the run.

    Notes
    -----
    RELION 5's numbers in 2D. A run of 200 sees each particle about 12 times where there are 10,000, and 6
    times where there are 100,000 to a million.
    """
    first, between, _ = _position(iteration, n_minibatches)
    small = sizes.first or min(max(0.005 * n_particles, 200), 10_000)
    large = sizes.last or min(max(0.05 * n_particles, 1000), 100_000)
    share = min(max((iteration - first) / max(between, 1), 0.0), 1.0)
    size = round(small + (large - small) * share)
    return n_particles if iteration == n_minibatches or size > n_particles // 2 else size


def total_visits(n_minibatches: int, n_particles: int, sizes: Sizes = _USUAL_SIZES) -> int:
    """Return how many times particles are looked at in a whole run, all particles together."""
    numbers = range(1, n_minibatches + 1)
    return sum(minibatch_size(iteration, n_minibatches, n_particles, sizes) for iteration in numbers)


def step_size(iteration: int, n_minibatches: int, steps: Steps = _USUAL_STEPS) -> float:
    """Return η, the share of the way to its target that a common class goes: from 0.9 down to 0.3 as a rule.

    Notes
    -----
    RELION 5's "3-step" schedule; see `_early_share`.
    """
    early = _early_share(iteration, n_minibatches, 0.5)
    return steps.first * early + steps.last * (1.0 - early)


def regularisation(iteration: int, n_minibatches: int, regularisation: float) -> float:
    """Return the T in force: 1 in the first phase, the user's from the second on."""
    early = _early_share(iteration, n_minibatches, 0.25)
    return early + regularisation * (1.0 - early)


def _early_share(iteration: int, n_minibatches: int, width: float) -> float:
    """Fall from 1 to 0 at the start of the second phase, within ``width`` times its length.

    1 / (10^((x − b − a/2) / (a/4)) + 1), b the end of the first phase, a the width.
    """
    first, between, _ = phases(n_minibatches)
    a = width * max(between, 1)
    exponent = (iteration - first - a / 2) / (a / 4)
    return 0.0 if exponent > 300 else 1.0 / (10.0**exponent + 1.0)


def minibatch(
    seed: int, iteration: int, uids: ArrayLike, n_minibatches: int, sizes: Sizes = _USUAL_SIZES
) -> NDArray[np.int64]:
    """Return the rows of the particles that an iteration takes.

    Parameters
    ----------
    seed : of the run.
    uids : shape (n,), of all particles.
    sizes : as for `minibatch_size`.

    Returns
    -------
    Shape (`minibatch_size`,), ascending.

    Notes
    -----
    Mini-batches go through all particles in random order before any is seen again, so that none is
    forgotten and averages over a few mini-batches rest on as many different particles as they can; the
    order is new each time. Which particles are taken depends on their uids, not on their rows. To keep a
    mini-batch that crosses from one order to the next free of doubles, a fixed half of the particles
    always comes first.
    """
    uids = np.asarray(uids)
    n = len(uids)
    size = minibatch_size(iteration, n_minibatches, n, sizes)
    if size == n:
        return np.arange(n, dtype=np.int64)
    start = sum(minibatch_size(earlier, n_minibatches, n, sizes) for earlier in range(1, iteration))
    half = np.empty(n, dtype=np.int64)
    half[keyed_random.order(seed, "vdam halves of an order", uids)] = np.arange(n) >= (n + 1) // 2
    rows: list[NDArray[np.int64]] = []
    for number in range(start // n, (start + size - 1) // n + 1):
        key = keyed_random.uniform(seed, "vdam order", uids, iteration=number)
        order = np.lexsort((uids, key, half))
        rows.append(order[max(start - number * n, 0) : start + size - number * n])
    return np.sort(np.concatenate(rows)).astype(np.int64)


def pseudo_halves(seed: int, uids: ArrayLike) -> NDArray[np.int64]:
    """Return 0 or 1 for each particle, always the same: to which of the two sums its gradient goes.

    Notes
    -----
    Both halves are aligned to the same references, so their agreement sets a step's size and is no
    resolution.
    """
    return (keyed_random.uniform(seed, "vdam pseudo halves", uids) < 0.5).astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """What VDAM remembers of earlier mini-batches.

    Parameters
    ----------
    first : complex64, shape (2, C, K)
        For each pseudo-half, class and coefficient the fading sum of Aᵀ(w C X/σ²): moment of first order
        in the images.
    second : float32, shape (2, C, K)
        The fading sum of w C²/σ².
    """

    first: BandValues
    second: BandValues

    def __post_init__(self) -> None:
        if self.first.ndim != 3 or self.first.shape[0] != 2 or self.first.shape != self.second.shape:
            raise ShapeError(
                f"Moments must have two arrays of shape (2, C, K); got {tuple(self.first.shape)} and "
                f"{tuple(self.second.shape)}."
            )

    @classmethod
    def none(cls, n_classes: int, n_coefficients: int, *, device: torch.device | str = "cpu") -> "Moments":
        """Return the moments before the first mini-batch."""
        shape = (2, n_classes, n_coefficients)
        return cls(
            first=torch.zeros(shape, dtype=torch.complex64, device=device),
            second=torch.zeros(shape, dtype=torch.float32, device=device),
        )

    def shifted(self, phases: Tensor) -> "Moments":
        """Return the moments of averages that have been moved.

        Parameters
        ----------
        phases : complex, shape (C, K)
            Of `halfmap.fourier.resample.phase_factors` with the classes' shifts.

        Notes
        -----
        Each half is moved by itself, so that their differences stay those of noise.
        """
        return Moments(first=self.first * phases.to(self.first.dtype), second=self.second)


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """References after a mini-batch.

    Parameters
    ----------
    references : complex64, shape (C, K).
    moments : of this mini-batch and those before.
    signal_to_noise : float64, shape (C, S), S one more than the last shell
        Power of the remembered average over that of its noise, from the agreement of the pseudo-halves;
        0 where there is no evidence.
    misfit : float64, shape (C,)
        ½ Σ_k W_k |target − reference before the update|² over the remembered particles: by how much the
        penalised log-likelihood would rise; the class's error in the sense of class revival.
    """

    references: BandValues
    moments: Moments
    signal_to_noise: Tensor
    misfit: Tensor


def update(
    references: BandValues,
    gradients: BandValues,
    curvatures: BandValues,
    moments: Moments,
    *,
    step: float,
    regularisation: float,
    fractions: Tensor,
    shell_of: Tensor,
    momentum: float = 0.9,
    curvature_floor: float = 1e-3,
) -> Update:
    """Move references towards the regularised averages of the remembered mini-batches.

    Parameters
    ----------
    references : complex64, shape (C, K)
        P, those that the mini-batch was compared with, over the whole band.
    gradients : complex64, shape (2, C, K′), K′ ≤ K
        For each pseudo-half Σ_i Aᵀ(w C/σ² (X − C P)) over the mini-batch, over a prefix of the band
        (`FourierBand.head`): what was compared. There is no evidence for the rest.
    curvatures : float32, shape (2, C, K′)
        Σ_i w C²/σ².
    moments : over the whole band.
    step : η, of `step_size`; 1 goes all the way.
    regularisation : T, of the function of that name.
    fractions : shape (C,)
        Expected shares of the classes.
    shell_of : int64, shape (K,)
        Of the band.
    momentum : share of what is remembered that stays; 0 where the mini-batch holds all particles.
    curvature_floor : least curvature of a coefficient, as a share of the shell mean of the best seen class.

    Returns
    -------
    Update

    Raises
    ------
    ShapeError
        Shapes do not belong together.
    InputError
        Step, momentum or T outside their domain.

    Notes
    -----
    Adding W P to a gradient gives the sum of the images themselves, whatever P was, so the moments are fading
    sums D_h ← μ D_h + (g_h + W_h P) and W_h ← μ W_h + W_h(new) of one kind over references that differ. With the
    averages t_h = D_h / W_h of both halves, weights ω = W_1 W_2 / (W_1 + W_2), and ⟨ ⟩ the ω-weighted mean over a
    shell,

        noise  = ¼ ⟨|t_1 − t_2|²⟩
        signal = max(0, ⟨Re t_1 t_2*⟩ − noise √(2 / n_shell))
        snr_k  = T (signal / noise) (W_k / mean of W over the shell)
        P     += η_c [snr / (1 + snr) · (D_1 + D_2) / (W_1 + W_2) − P],    η_c = η (1 − exp(−(3C + 10) π_c))

    The fixed point is the Wiener-filtered average with the signal's power estimated from the agreement of the
    halves. Their product does not contain noise squared, so noise alone leaves nothing behind at any T, which is
    not so where the power of P itself stands for the signal; taking off one standard error makes that strict.
    A shell with no prior history enters as soon as there is evidence for it. Rare classes move less, and
    classes without particles in a mini-batch stay.

    This is RELION 5's VDAM in its parts (pseudo-halves, momentum 0.9, per-shell reliability, steps by class share),
    with one difference in kind: RELION remembers g_h / max(1, W_h), the steps of each mini-batch with equal weight
    whatever it knew, and divides by a second moment of |g_1 − g_2|² / |g_1 + g_2|², which has no finite mean for noise.
    Remembering sums instead makes each coefficient count by what was seen of it. All ratios are
    free of the images' grey scale and of the grid's padding; RELION's floor of 1 on a weight in a grid padded
    twice, 4 in units of ``curvatures``, is in effect none for normalised images and is replaced by a relative one.

    References
    ----------
    Kimanius et al. 2021, "New tools for automated cryo-EM single-particle analysis in RELION-4.0", Biochem. J.
    478, 4169 (VDAM). Cappé and Moulines 2009, "On-line expectation-maximization algorithm for latent data
    models", J. R. Stat. Soc. B 71, 593 (fading sums of statistics).
    """
    n_classes, width = references.shape[0], gradients.shape[-1]
    _check(references, gradients, curvatures, moments, fractions, shell_of)
    if not 0 < step <= 1 or not 0 <= momentum < 1 or not regularisation > 0:
        raise InputError(
            f"A step must lie in (0, 1], a momentum in [0, 1) and T above 0; "
            f"got {step}, {momentum} and {regularisation}."
        )
    first, second = momentum * moments.first, momentum * moments.second
    first[..., :width] += gradients + curvatures * references[:, :width]
    second[..., :width] += curvatures
    shells = _Shells(shell_of)
    evidence = second.sum(0)
    floor = (curvature_floor * shells.mean(evidence).amax(0)).clamp_min(torch.finfo(torch.float32).tiny)
    floor_of = shells.spread(floor).to(evidence.dtype)
    half_averages = first / torch.maximum(second, floor_of / 2)
    average = first.sum(0) / torch.maximum(evidence, floor_of)
    ratio = _signal_to_noise(half_averages, second, shells)
    per_shell = shells.spread(shells.mean(evidence)).clamp_min(torch.finfo(torch.float32).tiny)
    scaled = regularisation * shells.spread(ratio) * evidence / per_shell
    way = average * (scaled / (1 + scaled)).to(evidence.dtype) - references
    class_step = step * (1 - torch.exp(-(3.0 * n_classes + 10.0) * fractions.to(torch.float64)))
    return Update(
        references=references + class_step[:, None].to(evidence.dtype) * way,
        moments=Moments(first=first, second=second),
        signal_to_noise=ratio,
        misfit=0.5 * (evidence * (way.real.square() + way.imag.square())).to(torch.float64).sum(-1),
    )


def _signal_to_noise(half_averages: Tensor, second: Tensor, shells: "_Shells") -> Tensor:
    a, b = half_averages[0], half_averages[1]
    weight = second[0] * (second[1] / second.sum(0).clamp_min(torch.finfo(second.dtype).tiny))
    total = shells.sum(weight)
    difference = a - b
    noise = shells.sum(weight * (difference.real.square() + difference.imag.square())) / 4
    common = shells.sum(weight * (a.real * b.real + a.imag * b.imag))
    # coefficients that were hardly seen do not count towards the number that the mean rests on
    number = total.square() / shells.sum(weight.square()).clamp_min(torch.finfo(torch.float64).tiny)
    signal = (common - noise * torch.sqrt(2 / number.clamp_min(1.0))).clamp_min(0.0)
    # nothing measured in single precision is better than this
    return torch.where(signal > 0, signal / torch.maximum(noise, 1e-12 * signal), torch.zeros_like(signal))


class _Shells:
    """Sums over shells and back."""

    def __init__(self, shell_of: Tensor) -> None:
        self.shell_of = shell_of
        self.number = int(shell_of.max()) + 1
        self.counts = torch.bincount(shell_of, minlength=self.number).clamp_min(1).to(torch.float64)

    def sum(self, values: Tensor) -> Tensor:
        sums = torch.zeros((*values.shape[:-1], self.number), dtype=torch.float64, device=values.device)
        return sums.index_add_(-1, self.shell_of, values.to(torch.float64))

    def mean(self, values: Tensor) -> Tensor:
        return self.sum(values) / self.counts

    def spread(self, curve: Tensor) -> Tensor:
        return curve.index_select(-1, self.shell_of)


def _position(iteration: int, n_minibatches: int) -> tuple[int, int, int]:
    lengths = phases(n_minibatches)
    if not 1 <= iteration <= n_minibatches:
        raise InputError(f"An iteration must lie between 1 and {n_minibatches}; got {iteration}.")
    return lengths


def _check(
    references: Tensor, gradients: Tensor, curvatures: Tensor, moments: Moments, fractions: Tensor, shell_of: Tensor
) -> None:
    classes, coefficients = references.shape
    width = gradients.shape[-1]
    expected = {
        "gradients": (gradients, (2, classes, min(width, coefficients))),
        "curvatures": (curvatures, (2, classes, min(width, coefficients))),
        "moments": (moments.first, (2, classes, coefficients)),
        "fractions": (fractions, (classes,)),
        "shell_of": (shell_of, (coefficients,)),
    }
    for name, (values, shape) in expected.items():
        if tuple(values.shape) != shape:
            raise ShapeError(
                f"{name} must have shape {shape} with {classes} references of {coefficients} coefficients; "
                f"got {tuple(values.shape)}."
            )
