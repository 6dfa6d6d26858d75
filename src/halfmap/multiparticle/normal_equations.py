"""Normal equations of a series: what all its particles share, and what is each particle's own.

Their matrix is an arrow: a block for each particle, a dense one for what they share, and what couples these. Particles
are eliminated by the Schur complement, so only what is shared is ever solved for as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.errors import ComputeError


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleEquations:
    """The part of P particles that have q parameters each; m are shared.

    Parameters
    ----------
    hessian : float64, shape (P, q, q).
    gradient : float64, shape (P, q).
    cross : float64, shape (P, q, m).
    """

    hessian: Tensor
    gradient: Tensor
    cross: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class NormalEquations:
    """A quadratic model of an objective: value(θ) = gradient·θ + ½ θ·Hessian·θ and a constant.

    Parameters
    ----------
    hessian : float64, shape (m, m), of what is shared.
    gradient : float64, shape (m,).
    particles : one for each species, or any other group of particles with the same parameters.
    """

    hessian: Tensor
    gradient: Tensor
    particles: tuple[ParticleEquations, ...]

    def __add__(self, other: "NormalEquations") -> "NormalEquations":
        """Return the equations of both groups of particles, which share what is shared."""
        return NormalEquations(
            hessian=self.hessian + other.hessian,
            gradient=self.gradient + other.gradient,
            particles=self.particles + other.particles,
        )

    def predicted_change(self, shared: Tensor, particles: Sequence[Tensor]) -> float:
        """Return by how much the quadratic model says that a step changes the objective."""
        change = self.gradient @ shared + shared @ self.hessian @ shared / 2
        for own, step in zip(self.particles, particles, strict=True):
            coupled = own.gradient + torch.einsum("pij,pj->pi", own.hessian, step) / 2 + own.cross @ shared
            change = change + (coupled * step).sum()
        return float(change)


def assemble(
    gradient: Tensor, hessian: Tensor, particle: Tensor, columns: Sequence[Tensor], shared: Sequence[Tensor], m: int
) -> NormalEquations:
    """Carry local quadratic models over to the parameters of a series.

    Parameters
    ----------
    gradient, hessian : float64, shapes (P, T, d) and (P, T, d, d)
        Of half of χ², by the local parameters of every particle and image; zero where an image does not count.
    particle, columns, shared : of `halfmap.multiparticle.parameters.Design`
        A local vector is particle·θ_p + shared·θ_s: shapes (P, T, d, q); for each image (m_t,) and (P, d, m_t).
    m : number of all shared parameters.

    Notes
    -----
    Loops over images alone; within one all particles go in matrix products.
    """
    n, _, d, q = particle.shape
    by_particle = hessian @ particle
    own_hessian = torch.einsum("ptdi,ptdj->pij", particle, by_particle)
    own_gradient = torch.einsum("ptdi,ptd->pi", particle, gradient)
    shared_hessian = torch.zeros((m, m), dtype=torch.float64)
    shared_gradient = torch.zeros(m, dtype=torch.float64)
    cross = torch.zeros((n, q, m), dtype=torch.float64)
    for t, (where, along) in enumerate(zip(columns, shared, strict=True)):
        if not len(where):
            continue
        flat = along.reshape(n * d, -1)
        weighted = (hessian[:, t] @ along).reshape(n * d, -1)
        shared_hessian[where[:, None], where] += flat.T @ weighted
        shared_gradient[where] += flat.T @ gradient[:, t].reshape(-1)
        cross[:, :, where] += by_particle[:, t].mT @ along
    return NormalEquations(
        hessian=shared_hessian,
        gradient=shared_gradient,
        particles=(ParticleEquations(hessian=own_hessian, gradient=own_gradient, cross=cross),),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Schur:
    """Normal equations after their particles have been eliminated.

    Parameters
    ----------
    hessian, gradient : of what is shared, shapes (m, m) and (m,).
    factors : Cholesky factors of each group of particles' blocks, shape (P, q, q).
    coupling : the blocks' inverses times ``cross``, shape (P, q, m).
    """

    hessian: Tensor
    gradient: Tensor
    factors: tuple[Tensor, ...]
    coupling: tuple[Tensor, ...]


def eliminated(equations: NormalEquations) -> Schur:
    """Eliminate the particles.

    Raises
    ------
    ComputeError
        A particle's block is not positive: nothing determines its parameters, not even a prior.
    """
    hessian, gradient = equations.hessian.clone(), equations.gradient.clone()
    factors, coupling = [], []
    for own in equations.particles:
        factor, failed = torch.linalg.cholesky_ex(own.hessian)
        if bool(failed.any()):
            raise ComputeError(
                f"Every particle must be determined by images or priors; {int((failed > 0).sum())} are not; "
                "give their parameters a prior."
            )
        solved = torch.cholesky_solve(own.cross, factor)
        hessian -= own.cross.flatten(0, 1).T @ solved.flatten(0, 1)
        gradient -= torch.einsum("pqm,pq->m", solved, own.gradient)
        factors.append(factor)
        coupling.append(solved)
    return Schur(hessian=hessian, gradient=gradient, factors=tuple(factors), coupling=tuple(coupling))


def minimum(equations: NormalEquations) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return where the quadratic model is least: shared (m,), and (P, q) for each group of particles.

    Raises
    ------
    ComputeError
        See `eliminated`; or nothing determines something that is shared.
    """
    reduced = eliminated(equations)
    shared = -torch.cholesky_solve(reduced.gradient[:, None], cholesky(reduced.hessian))[:, 0]
    particles = tuple(
        -torch.cholesky_solve((own.gradient + own.cross @ shared)[..., None], factor)[..., 0]
        for own, factor in zip(equations.particles, reduced.factors, strict=True)
    )
    return shared, particles


def cholesky(hessian: Tensor) -> Tensor:
    """Return the Cholesky factor of what is shared.

    Raises
    ------
    ComputeError
        It is not positive.
    """
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if bool(failed):
        raise ComputeError(
            "Every shared parameter must be determined by images or priors; number "
            f"{int(failed) - 1} is not; give it a prior or leave it out."
        )
    return factor
