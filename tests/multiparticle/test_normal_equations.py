"""The arrow solved by blocks equals the whole solved densely; error bars are those of the whole."""

import numpy as np
import pytest
import torch

from halfmap.errors import ComputeError
from halfmap.multiparticle import solve
from halfmap.multiparticle.normal_equations import assemble, minimum

P, T, D, Q, M = 5, 4, 3, 2, 6


@pytest.fixture
def parts():
    random = np.random.default_rng(1)

    def normal(*shape):
        return torch.from_numpy(random.normal(size=shape))

    root = normal(P, T, D, D)
    columns = [torch.tensor([0, 1, 5]), torch.tensor([2]), torch.tensor([], dtype=torch.long), torch.tensor([5, 3, 4])]
    shared = [normal(P, D, len(where)) for where in columns]
    return {
        "gradient": normal(P, T, D),
        "hessian": root @ root.mT,
        "particle": normal(P, T, D, Q),
        "columns": columns,
        "shared": shared,
        "m": M,
    }


def _dense(parts):
    """Return the whole matrix and gradient, shared parameters first."""
    size = M + P * Q
    matrix, gradient = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for p in range(P):
        for t in range(T):
            along = torch.zeros(D, size, dtype=torch.float64)
            along[:, parts["columns"][t]] = parts["shared"][t][p]
            along[:, M + p * Q : M + (p + 1) * Q] = parts["particle"][p, t]
            matrix += along.T @ parts["hessian"][p, t] @ along
            gradient += along.T @ parts["gradient"][p, t]
    return matrix, gradient


def _prior():
    return solve.Prior(
        shared=torch.diag(torch.arange(1.0, M + 1)).double(), particles=(0.5 * torch.eye(Q, dtype=torch.float64),)
    )


def _zero():
    return torch.zeros(M, dtype=torch.float64), (torch.zeros(P, Q, dtype=torch.float64),)


def test_step_equals_that_of_the_whole_matrix(parts):
    matrix, gradient = _dense(parts)
    prior = _prior()
    whole = matrix + torch.block_diag(prior.shared, *[prior.particles[0]] * P)
    damped = whole + 0.1 * torch.diag(whole.diagonal())
    expected = -torch.linalg.solve(damped, gradient)
    equations = solve.with_prior(assemble(**parts), prior, *_zero())
    shared, (particles,) = solve.step(equations, 0.1)
    torch.testing.assert_close(torch.cat([shared, particles.flatten()]), expected, atol=1e-10, rtol=0)
    change = gradient @ expected + expected @ whole @ expected / 2
    assert equations.predicted_change(shared, [particles]) == pytest.approx(float(change), rel=1e-10)


def test_prior_pulls_towards_where_the_refinement_began(parts):
    prior = _prior()
    where = torch.ones(M, dtype=torch.float64), (torch.full((P, Q), 2.0, dtype=torch.float64),)
    nothing = {**parts, "gradient": torch.zeros(P, T, D), "hessian": torch.zeros(P, T, D, D)}
    nothing = {name: value.double() if name in ("gradient", "hessian") else value for name, value in nothing.items()}
    equations = solve.with_prior(assemble(**nothing), prior, *where)
    shared, (particles,) = solve.step(equations)
    torch.testing.assert_close(shared, -where[0])
    torch.testing.assert_close(particles, -where[1][0])
    assert equations.predicted_change(shared, [particles]) == pytest.approx(-float(prior.energy(*where)))


def test_groups_of_particles_add_up(parts):
    first, second = ({**parts, **_rows(parts, rows)} for rows in (slice(0, 2), slice(2, P)))
    together = assemble(**first) + assemble(**second)
    prior = solve.Prior(shared=_prior().shared, particles=_prior().particles * 2)
    origin = _zero()[0], [torch.zeros(n, Q, dtype=torch.float64) for n in (2, P - 2)]
    shared, particles = minimum(solve.with_prior(together, prior, *origin))
    expected, (all_particles,) = minimum(solve.with_prior(assemble(**parts), _prior(), *_zero()))
    torch.testing.assert_close(shared, expected)
    torch.testing.assert_close(torch.cat(particles), all_particles)


def _rows(parts, rows):
    cut = {name: parts[name][rows] for name in ("gradient", "hessian", "particle")}
    return {**cut, "shared": [along[rows] for along in parts["shared"]]}


def test_error_bars_are_those_of_the_whole_matrix(parts):
    matrix, _ = _dense(parts)
    prior = _prior()
    precision = torch.block_diag(prior.shared, *[prior.particles[0]] * P)
    covariance = torch.linalg.inv(matrix + precision)
    found = solve.posterior(assemble(**parts), prior)
    torch.testing.assert_close(found.shared_root @ found.shared_root.T, covariance[:M, :M])
    torch.testing.assert_close(found.particle_deviation[0].flatten(), covariance.diagonal()[M:].sqrt())
    assert found.n_effective == pytest.approx(float((covariance @ matrix).trace()))
    local = found.local_deviation(0, parts["particle"], parts["columns"], parts["shared"])
    for p, t in ((0, 0), (3, 2), (4, 3)):
        along = torch.zeros(D, len(covariance), dtype=torch.float64)
        along[:, parts["columns"][t]] = parts["shared"][t][p]
        along[:, M + p * Q : M + (p + 1) * Q] = parts["particle"][p, t]
        torch.testing.assert_close(local[p, t], (along @ covariance @ along.T).diagonal().sqrt())


def test_directions_that_particles_make_up_for_are_found_and_named(parts):
    # shared parameter 5 moves every image as the first parameter of all particles does
    for t, where in enumerate(parts["columns"]):
        parts["columns"][t] = torch.cat([where[where != 5], torch.tensor([5])])
        along = parts["shared"][t][:, :, where != 5]
        parts["shared"][t] = torch.cat([along, parts["particle"][:, t, :, :1]], dim=-1)
    found = solve.null_space(assemble(**parts))
    assert len(found) == 1
    torch.testing.assert_close(found[0].abs(), torch.eye(M, dtype=torch.float64)[5], atol=1e-6, rtol=0)
    names = ["image_warp_x[0, 0, 0]", "image_warp_x[1, 0, 0]", "defocus[0]", "defocus[1]", "defocus[2]", "stage_z[0]"]
    assert solve.named_gauges(found, names) == ["stage_z"]


def test_particles_that_nothing_determines_are_refused(parts):
    parts["hessian"][2] = 0.0
    with pytest.raises(ComputeError, match="1 are not"):
        minimum(assemble(**parts))
