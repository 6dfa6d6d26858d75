"""Parameters of the microscope that all series of a source share: what each series says of them, put together.

A series' fit ends in a quadratic model of its objective. Once everything that is the series' own has been eliminated
from it, a few numbers are left that say how its images would take other optics. Those of all series add up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.image_series import ImageSeries, TiltSeries
from halfmap.multiparticle import solve
from halfmap.multiparticle.normal_equations import cholesky, eliminated
from halfmap.multiparticle.parameter_layout import Layout
from halfmap.multiparticle.parameter_update import with_shared
from halfmap.multiparticle.params import OpticsChoice, ParameterChoice
from halfmap.multiparticle.sub_iterations import Fitted

Series = TypeVar("Series", bound=ImageSeries)

_OF_BOTH = ("magnification", "odd_zernike_order", "even_zernike_order")
_OF_TILTS = "spherical_aberration"
_FIELDS = {
    "magnification": "magnification",
    "odd_zernike_order": "odd_zernike",
    "even_zernike_order": "even_zernike",
    _OF_TILTS: "spherical_aberration_mm",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class OpticsQuadratic:
    """How half of χ² of a series changes with its optics, all else following: gradient·δ + ½ δ·Hessian·δ.

    Parameters
    ----------
    names, units : of the k parameters.
    change : float64, shape (k,): where δ is zero, relative to where the refinement began.
    gradient, hessian : float64, shapes (k,) and (k, k); without the optics' prior, with all others.
    prior : float64, shape (k, k): precision of the optics about where the refinement began.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    change: NDArray[np.float64]
    gradient: NDArray[np.float64]
    hessian: NDArray[np.float64]
    prior: NDArray[np.float64]

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Standard deviations that this series and the prior leave by themselves, shape (k,)."""
        return _deviation(torch.from_numpy(self.hessian + self.prior))


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedOptics:
    """The optics that suit all series of a source together.

    Parameters
    ----------
    names, units : of the k parameters.
    change, deviation : float64, shape (k,): from where the refinement began, and standard deviations.
    deviation_of_one : float64, shape (k,): median of those that single series leave.
    n_series : that took part.
    disagreement : χ² for each degree of freedom by which the series' own optics differ from the shared ones: about 1
        where the error bars tell all; NaN for a single series.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    change: NDArray[np.float64]
    deviation: NDArray[np.float64]
    deviation_of_one: NDArray[np.float64]
    n_series: int
    disagreement: float


def choice_of_optics(choice: ParameterChoice, series: ImageSeries) -> ParameterChoice:
    """Return of what is fitted only what one microscope has: magnification, aberrations, and the Cs of tilt series."""
    return ParameterChoice(**{name: getattr(choice, name) for name in _shared_names(series)})


def without_optics(choice: ParameterChoice, series: ImageSeries) -> ParameterChoice:
    """Return what is fitted but for `choice_of_optics`."""
    nothing = OpticsChoice()
    return replace(choice, **{name: getattr(nothing, name) for name in _shared_names(series)})


def optics_quadratic(fitted: Fitted) -> OpticsQuadratic | None:
    """Return what the end of a series' fit says of its optics; None where none were fitted.

    Raises
    ------
    ComputeError
        Something is determined neither by images nor by priors.
    """
    here, layout, prior = fitted.visited, fitted.comparison.layouts[0], fitted.comparison.prior
    shared_names = set(_shared_names(here.parameters.series))
    fields = {_FIELDS[name] for name in shared_names}
    is_optics = torch.zeros(layout.n_shared, dtype=torch.bool)
    for block in layout.blocks:
        if len(block.shape) == 1 and block.field in fields:
            is_optics[block.first : block.first + block.n_parameters] = True
    if not bool(is_optics.any()):
        return None
    kept, rest = is_optics.nonzero().flatten(), (~is_optics).nonzero().flatten()
    others = prior.shared * (~is_optics)[:, None] * ~is_optics
    parameters = here.parameters
    reduced = eliminated(
        solve.with_prior(here.equations, replace(prior, shared=others), parameters.shared, parameters.own)
    )
    hessian, gradient = reduced.hessian[kept[:, None], kept], reduced.gradient[kept]
    if len(rest):
        cross = reduced.hessian[rest[:, None], kept]
        solved = torch.cholesky_solve(cross, cholesky(reduced.hessian[rest[:, None], rest]))
        hessian, gradient = hessian - cross.T @ solved, gradient - solved.T @ reduced.gradient[rest]
    return OpticsQuadratic(
        names=tuple(layout.names[number] for number in kept.tolist()),
        units=tuple(layout.units[number] for number in kept.tolist()),
        change=parameters.shared[kept].numpy(),
        gradient=gradient.numpy(),
        hessian=((hessian + hessian.T) / 2).numpy(),
        prior=prior.shared[kept[:, None], kept].numpy(),
    )


def together(quadratics: Sequence[OpticsQuadratic]) -> SharedOptics:
    """Return the optics that suit all series best, with the prior counted once.

    Parameters
    ----------
    quadratics : of the series of a source, which all began with the same optics; at least one.

    Raises
    ------
    ComputeError
        Something is determined neither by images nor by the prior.
    """
    first = quadratics[0]
    whole = torch.from_numpy(sum((one.hessian for one in quadratics), start=first.prior))
    pull = torch.from_numpy(
        sum((one.hessian @ one.change - one.gradient for one in quadratics), start=0 * first.change)
    )
    change = torch.cholesky_solve(pull[:, None], cholesky(whole))[:, 0]
    return SharedOptics(
        names=first.names,
        units=first.units,
        change=change.numpy(),
        deviation=_deviation(whole),
        deviation_of_one=np.median([one.deviation for one in quadratics], axis=0),
        n_series=len(quadratics),
        disagreement=_disagreement(quadratics, change.numpy()),
    )


def mean_optics(series: Sequence[ImageSeries], choice: ParameterChoice) -> dict[str, Any]:
    """Return fields of `SeriesOptics` that a choice shares: what series have now, on average.

    Parameters
    ----------
    series : of a source; at least one.
    choice : what is fitted.
    """
    found = {}
    for name in _shared_names(series[0]):
        if getattr(choice, name):
            values = [np.asarray(getattr(one.optics, _FIELDS[name])) for one in series]
            # differences, so that what is the same in all stays the same to the last bit
            mean = values[0] + np.mean([one - values[0] for one in values], axis=0)
            found[_FIELDS[name]] = mean if mean.ndim else float(mean)
    return found


def with_optics(series: Series, fields: Mapping[str, Any]) -> Series:
    """Return a series with other values of some fields of its `SeriesOptics`."""
    return series.with_values(optics=replace(series.optics, **fields))


def changed_optics(
    series: ImageSeries, choice: ParameterChoice, start: Mapping[str, Any], change: NDArray[np.float64]
) -> dict[str, Any]:
    """Return fields of `SeriesOptics` after a change.

    Parameters
    ----------
    series : any of the source's.
    choice : what is fitted.
    start : of `mean_optics`.
    change : shape (k,), of `together`.
    """
    only = choice_of_optics(choice, series)
    layout = Layout(series, 1, 1, only)
    after = with_shared(with_optics(series, start), torch.from_numpy(change), layout)
    return {name: getattr(after.optics, name) for name in start}


def _shared_names(series: ImageSeries) -> tuple[str, ...]:
    return (*_OF_BOTH, _OF_TILTS) if isinstance(series, TiltSeries) else _OF_BOTH


def _deviation(precision: Tensor) -> NDArray[np.float64]:
    deviation: NDArray[np.float64] = torch.cholesky_inverse(cholesky(precision)).diagonal().sqrt().numpy()
    return deviation


def _disagreement(quadratics: Sequence[OpticsQuadratic], change: NDArray[np.float64]) -> float:
    """Return by how much more the shared optics cost than each series' own, for each degree of freedom."""
    chi2, n_determined = 0.0, 0
    for one in quadratics:
        slope = one.gradient + one.hessian @ (change - one.change)
        scale = np.sqrt(np.maximum(one.hessian.diagonal(), 1e-300))
        values, vectors = np.linalg.eigh(one.hessian / scale[:, None] / scale)
        is_determined = values > solve.NULL
        along = vectors.T @ (slope / scale)
        chi2 += float((along[is_determined] ** 2 / values[is_determined]).sum())
        n_determined += int(is_determined.sum())
    freedom = n_determined - len(change)
    return chi2 / freedom if freedom > 0 else float("nan")
