"""Point groups: their rotations, their asymmetric units, and distances up to symmetry.

A particle of a group looks the same from A and from A S for every rotation S of the group. Groups
stand as RELION's: C and D with the main axis on z and D's twofold on x, T with a threefold on z, O
with its fourfolds on x, y, z, and four settings of I.
"""

import functools
import math

import torch
from torch import Tensor

from halfmap.geometry.rotations import angular_distance_degrees, matrix_from_rotation_vector, viewing_direction
from halfmap.geometry.symmetry_names import canonical_name, order

_GOLDEN = (1.0 + math.sqrt(5.0)) / 2.0
_HALF_EDGE = 0.5 * math.atan(2.0)  # between a fivefold axis of an icosahedron and the nearest twofold

# Two axes, (fold, direction), generate each group.
_AXES_OF: dict[str, list[tuple[int, tuple[float, float, float]]]] = {
    "T": [(3, (0.0, 0.0, 1.0)), (2, (0.0, math.sqrt(2.0), 1.0))],
    "O": [(4, (0.0, 0.0, 1.0)), (3, (1.0, 1.0, 1.0))],
    "I1": [(2, (0.0, 0.0, 1.0)), (5, (_GOLDEN, 0.0, 1.0)), (3, (1.0, 1.0, 1.0))],
    "I2": [(2, (0.0, 0.0, 1.0)), (5, (1.0, 0.0, _GOLDEN)), (3, (1.0, 1.0, 1.0))],
    "I3": [(5, (0.0, 0.0, 1.0)), (2, (-math.sin(_HALF_EDGE), 0.0, math.cos(_HALF_EDGE)))],
    "I4": [(5, (0.0, 0.0, 1.0)), (2, (math.sin(_HALF_EDGE), 0.0, math.cos(_HALF_EDGE)))],
}


# A direction without symmetry; the asymmetric unit holds what is nearest to it among its images.
_UNIT_CENTRE = (0.7013, 0.1187, 0.7029)


def operators(name: str) -> Tensor:
    """Return the rotations of a point group.

    Parameters
    ----------
    name : for example ``C4``, ``D7``, ``T``, ``O``, ``I1``.

    Returns
    -------
    float64, shape (g, 3, 3)
        The identity first.

    Raises
    ------
    InputError
        No such group.

    Notes
    -----
    I1 and I2 have twofolds on x, y, z (fivefolds at (φ, 0, 1) and (1, 0, φ), φ the golden ratio);
    I3 and I4 a fivefold on z and a twofold in the xz plane at −x and +x.
    """
    return _operators(canonical_name(name)).clone()


@functools.lru_cache(maxsize=32)
def _operators(name: str) -> Tensor:
    if name in _AXES_OF:
        return _closure([_turn(fold, axis) for fold, axis in _AXES_OF[name]], order(name))
    fold = int(name[1:])
    cyclic = torch.stack([_turn(1, (0.0, 0.0, 1.0)), *(_turn(fold, (0.0, 0.0, 1.0), k) for k in range(1, fold))])
    return cyclic if name[0] == "C" else torch.cat([cyclic, cyclic @ _turn(2, (1.0, 0.0, 0.0))])


def _turn(fold: int, axis: tuple[float, float, float], times: int = 1) -> Tensor:
    """Rotate by ``times`` 1/fold turns about an axis; a full turn is the exact identity."""
    if fold == 1:
        return torch.eye(3, dtype=torch.float64)
    vector = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
    matrix = matrix_from_rotation_vector(vector * (2.0 * math.pi * times / fold))
    return torch.where((matrix - matrix.round()).abs() < 1e-14, matrix.round(), matrix)


def _closure(generators: list[Tensor], expected: int) -> Tensor:
    group = torch.eye(3, dtype=torch.float64)[None]
    while True:
        products = torch.cat([group, *(group @ generator for generator in generators)])
        distinct = [products[0]]
        for candidate in products[1:]:
            if all((candidate - known).abs().max() > 1e-6 for known in distinct):
                distinct.append(candidate)
        if len(distinct) == len(group):
            assert len(group) == expected
            return group
        group = torch.stack(distinct)


def mates(relaxed: str, name: str) -> Tensor:
    """Return rotations of a group that lead to different views of a particle of another one.

    Parameters
    ----------
    relaxed : group whose rotations nearly leave the particle as it is.
    name : group whose rotations do: C1, or one within the other.

    Returns
    -------
    float64, shape (m, 3, 3)
        One S of each coset S G of the group G called ``name``, the identity first: A S are the views from which the
        particle looks nearly as from A.
    """
    found: list[Tensor] = []
    for candidate in operators(relaxed):
        if not found or float(distance_degrees(torch.stack(found), candidate, name).min()) > 1e-3:
            found.append(candidate)
    return torch.stack(found)


def in_asymmetric_unit(directions: Tensor, name: str) -> Tensor:
    """Tell which viewing directions lie in a group's asymmetric unit.

    Parameters
    ----------
    directions : shape (..., 3)
        Unit vectors seen from the reference: third rows of rotations.
    name : of the group.

    Returns
    -------
    bool, shape (...)

    Notes
    -----
    The unit is the set of directions nearer to one fixed direction than any of their images are (its
    Dirichlet domain), so every orbit has one direction in it. The fixed direction is generic: no grid
    of directions has a plane of mirror images on the boundary.
    """
    ops = operators(name).to(directions)
    centre = torch.nn.functional.normalize(torch.tensor(_UNIT_CENTRE).to(directions), dim=0)
    return directions @ centre >= (directions @ (ops @ centre).T).amax(-1) - 1e-12


def reduce(rotations: Tensor, name: str) -> Tensor:
    """Return the equivalents of rotations whose viewing directions lie in the asymmetric unit.

    Parameters
    ----------
    rotations : shape (..., 3, 3).
    name : of the group.

    Returns
    -------
    Shape (..., 3, 3)
        A S for that S of the group.
    """
    ops = operators(name).to(rotations)
    centre = torch.nn.functional.normalize(torch.tensor(_UNIT_CENTRE).to(rotations), dim=0)
    nearness = viewing_direction(rotations) @ (ops @ centre).T
    return rotations @ ops[nearness.argmax(-1)]


def distance_degrees(first: Tensor, second: Tensor, name: str) -> Tensor:
    """Return the smallest angle between two orientations over a group's equivalents.

    Parameters
    ----------
    first, second : shape (..., 3, 3), broadcast together.
    name : of the group.

    Returns
    -------
    float64, shape (...)
        Degrees.
    """
    equivalents = second[..., None, :, :] @ operators(name).to(second)
    return angular_distance_degrees(first[..., None, :, :], equivalents).amin(-1)
