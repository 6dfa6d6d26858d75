"""Steps and error bars from normal equations with priors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.multiparticle.normal_equations import NormalEquations, Schur, cholesky, eliminated, minimum

NULL = 1e-7
"A direction whose information is below this share of its parameters' own is not determined by images."


@dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """Gaussian priors around where a refinement began.

    Parameters
    ----------
    shared : float64, shape (m, m): precision of what is shared.
    particles : float64, shape (q, q) for each group of particles: precision of a particle's parameters.
    """

    shared: Tensor
    particles: tuple[Tensor, ...]

    def energy(self, shared: Tensor, particles: Sequence[Tensor]) -> Tensor:
        """Return half the squared distance of parameters from where they began, in standard deviations."""
        total = shared @ self.shared @ shared
        for precision, own in zip(self.particles, particles, strict=True):
            total = total + torch.einsum("pi,ij,pj->", own, precision, own)
        return total / 2


def with_prior(
    equations: NormalEquations, prior: Prior, shared: Tensor, particles: Sequence[Tensor]
) -> NormalEquations:
    """Return the equations of likelihood and prior together, about parameters that lie away from the prior's centre.

    Parameters
    ----------
    shared, particles : where the equations were made, relative to where the refinement began.
    """
    return NormalEquations(
        hessian=equations.hessian + prior.shared,
        gradient=equations.gradient + prior.shared @ shared,
        particles=tuple(
            replace(own, hessian=own.hessian + precision, gradient=own.gradient + where @ precision)
            for own, precision, where in zip(equations.particles, prior.particles, particles, strict=True)
        ),
    )


def damped(equations: NormalEquations, damping: float) -> NormalEquations:
    """Return the equations with a share of their diagonal added, as of Levenberg and Marquardt.

    References
    ----------
    Marquardt 1963, "An algorithm for least-squares estimation of nonlinear parameters", J. SIAM 11, 431.
    """
    if damping == 0.0:
        return equations
    return NormalEquations(
        hessian=equations.hessian + damping * torch.diag(equations.hessian.diagonal()),
        gradient=equations.gradient,
        particles=tuple(
            replace(own, hessian=own.hessian + damping * torch.diag_embed(own.hessian.diagonal(dim1=-2, dim2=-1)))
            for own in equations.particles
        ),
    )


def step(equations: NormalEquations, damping: float = 0.0) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the step to the minimum of damped equations: see `normal_equations.minimum`."""
    return minimum(damped(equations, damping))


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """What is known about parameters after a refinement, by the curvature at its end.

    Parameters
    ----------
    shared_root : float64, shape (m, m): R of the covariance R Rᵀ of what is shared.
    particle_deviation : standard deviations, shape (P, q), for each group of particles.
    schur : the eliminated equations, priors included.
    null_space : float64, shape (n_null, m)
        Unit directions of what is shared that images cannot determine, because particles can make up for them.
    n_effective : how many parameters the images, and not the priors, have determined.
    """

    shared_root: Tensor
    particle_deviation: tuple[Tensor, ...]
    schur: Schur
    null_space: Tensor
    n_effective: float

    @property
    def shared_deviation(self) -> Tensor:
        """Standard deviations of what is shared, shape (m,)."""
        return self.shared_root.square().sum(1).sqrt()

    def local_deviation(
        self, group: int, particle: Tensor, columns: Sequence[Tensor], along: Sequence[Tensor]
    ) -> Tensor:
        """Return standard deviations of local parameters, which no gauge affects.

        Parameters
        ----------
        group : number of the group of particles.
        particle, columns, along : of their `halfmap.multiparticle.parameters.Design`.

        Returns
        -------
        float64, shape (P, T, d)
        """
        n, n_images, d, _ = particle.shape
        factor, coupling = self.schur.factors[group], self.schur.coupling[group]
        variance = torch.zeros((n, n_images, d), dtype=torch.float64)
        for t in range(n_images):
            effect = -particle[:, t] @ coupling
            if len(columns[t]):
                effect[:, :, columns[t]] += along[t]
            own = torch.linalg.solve_triangular(factor, particle[:, t].mT, upper=False)
            variance[:, t] = (effect @ self.shared_root).square().sum(-1) + own.square().sum(-2)
        return variance.sqrt()


def posterior(equations: NormalEquations, prior: Prior) -> Posterior:
    """Work out error bars.

    Parameters
    ----------
    equations : of the likelihood alone, where the refinement ended.
    prior : of the refinement.

    Raises
    ------
    ComputeError
        Something is determined neither by images nor by priors.
    """
    gauges = null_space(equations)  # before more matrices of all that is shared are there
    origin = torch.zeros_like(equations.gradient), [torch.zeros_like(own.gradient) for own in equations.particles]
    whole = with_prior(equations, prior, *origin)
    reduced = eliminated(whole)
    one = torch.eye(len(equations.gradient), dtype=torch.float64)
    root = torch.linalg.solve_triangular(cholesky(reduced.hessian).mT, one, upper=True)
    deviations, fixed = [], float((root * (prior.shared @ root)).sum())
    for factor, coupling, precision in zip(reduced.factors, reduced.coupling, prior.particles, strict=True):
        spread = coupling @ root
        variance = torch.cholesky_inverse(factor) + spread @ spread.mT
        deviations.append(variance.diagonal(dim1=-2, dim2=-1).sqrt())
        fixed += float(torch.einsum("pij,ji->", variance, precision))
    n_all = len(equations.gradient) + sum(own.gradient.numel() for own in equations.particles)
    return Posterior(
        shared_root=root,
        particle_deviation=tuple(deviations),
        schur=reduced,
        null_space=gauges,
        n_effective=n_all - fixed,
    )


def null_space(equations: NormalEquations) -> Tensor:
    """Return the directions of what is shared that images do not determine, unit vectors, shape (n_null, m)."""
    own_scale = equations.hessian.diagonal().clamp(min=0.0).sqrt()
    unseen = own_scale == 0
    # particles that no image determines take part with next to nothing
    firm = replace(
        equations,
        particles=tuple(
            replace(own, hessian=own.hessian + torch.diag_embed(_firmness(own.hessian))) for own in equations.particles
        ),
    )
    scale = torch.where(unseen, torch.ones_like(own_scale), own_scale)
    values, vectors = torch.linalg.eigh(eliminated(firm).hessian / scale[:, None] / scale)
    directions = (vectors[:, values < NULL] / scale[:, None]).T
    return directions / directions.norm(dim=1, keepdim=True).clamp(min=1e-300)


def _firmness(hessian: Tensor) -> Tensor:
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    return torch.where(diagonal > 0, 1e-9 * diagonal, torch.ones_like(diagonal))


def named_gauges(directions: Tensor, names: Sequence[str], *, least_share: float = 0.05) -> list[str]:
    """Say in words which groups of parameters each undetermined direction moves.

    Parameters
    ----------
    directions : shape (n_null, m), of `null_space`.
    names : of the m parameters; those of a group agree up to the first bracket.
    """
    groups = [name.split("[")[0] for name in names]
    order = list(dict.fromkeys(groups))
    member = torch.tensor([order.index(group) for group in groups], dtype=torch.long)
    found = []
    for direction in directions:
        share = torch.zeros(len(order), dtype=torch.float64).index_add_(0, member, direction.square())
        found.append(
            " with ".join(name for name, part in zip(order, share.tolist(), strict=True) if part >= least_share)
        )
    return found
