"""How often a particle was seen from each direction, and how often each direction of its transform."""

import numpy as np
import torch
from astropy_healpix.healpy import vec2pix
from torch import Tensor

from halfmap.geometry.healpix import OrientationGrid
from halfmap.geometry.rotations import viewing_direction
from halfmap.geometry.symmetry import operators, reduce
from halfmap.tensors import Rotations

_PAIRS_AT_ONCE = 1 << 24
_VIEW_ORDER = 5  # views are counted in pixels of 1.8°, whatever their number


def pixels_of_directions(directions: Tensor, order: int) -> Tensor:
    """Return the nested HEALPix pixels that hold directions.

    Parameters
    ----------
    directions : unit vectors, shape (n, 3).
    order : HEALPix order.

    Returns
    -------
    int64, shape (n,).
    """
    if not len(directions):
        return torch.zeros(0, dtype=torch.int64)
    return torch.from_numpy(np.asarray(vec2pix(2**order, *directions.double().numpy().T, nest=True))).long()


def equivalent_views(rotations: Rotations, symmetry: str) -> Tensor:
    """Return the viewing directions of rotations and of all their equivalents, shape (n · g, 3)."""
    return torch.einsum("ni,gij->ngj", viewing_direction(rotations.double()), operators(symmetry)).reshape(-1, 3)


def view_counts(rotations: Rotations, order: int, symmetry: str = "C1") -> Tensor:
    """Count rotations by viewing direction, each at all its equivalents.

    Parameters
    ----------
    rotations : shape (n, 3, 3).
    order : HEALPix order.
    symmetry : point group of g rotations.

    Returns
    -------
    int64, shape (12 · 4^order,): n · g in all, by nested pixels over the whole sphere.
    """
    pixels = pixels_of_directions(equivalent_views(rotations, symmetry), order)
    return torch.bincount(pixels, minlength=OrientationGrid(order).n_directions)


def counts_in_asymmetric_unit(rotations: Rotations, order: int, symmetry: str = "C1") -> tuple[Tensor, Tensor]:
    """Count rotations by viewing direction, each once, among the directions of an asymmetric unit.

    Parameters
    ----------
    rotations : shape (n, 3, 3).
    order : HEALPix order.
    symmetry : point group.

    Returns
    -------
    numbers : int64, shape (d,): pixels of `OrientationGrid.direction_numbers`.
    counts : int64, shape (d,): n in all.

    Notes
    -----
    A pixel on the unit's border may hold a direction of the unit while its own centre lies outside; such a direction
    counts for the nearest pixel of the unit, up to symmetry.
    """
    grid = OrientationGrid(order)
    numbers = grid.direction_numbers(symmetry)
    place = torch.full((grid.n_directions,), -1)
    place[numbers] = torch.arange(len(numbers))
    seen = viewing_direction(reduce(rotations.double(), symmetry))
    found = place[pixels_of_directions(seen, order)]
    outside = torch.nonzero(found < 0).flatten()
    centres = grid.directions(numbers)
    step = max(1, _PAIRS_AT_ONCE // (len(numbers) * len(operators(symmetry))))
    for start in range(0, len(outside), step):
        rows = outside[start : start + step]
        images = torch.einsum("ni,gij->ngj", seen[rows], operators(symmetry))
        found[rows] = (images @ centres.T).amax(1).argmax(1)
    return numbers, torch.bincount(found, minlength=len(numbers))


def transform_coverage(rotations: Rotations, symmetry: str = "C1", *, order: int = 3, shell: int = 8) -> Tensor:
    """Tell how often each direction of the particle's transform was seen, relative to even views.

    Parameters
    ----------
    rotations : shape (n, 3, 3).
    symmetry : point group.
    order : HEALPix order of the directions that are looked at.
    shell : radius in Fourier pixels at which slices, one pixel thick, are intersected.

    Returns
    -------
    float64, shape (12 · 4^order,)
        By nested pixels: 1 where a direction was seen as often as under evenly spread views, 0: never. A direction
        and its opposite have one value.

    Notes
    -----
    A view along v sees the directions across it: those k with |v · k| ≤ 1 / (2 shell). Of even views that is the share
    1 / (2 shell).

    References
    ----------
    Baldwin and Lyumkis 2020, Prog. Biophys. Mol. Biol. 150, 160: the sampling function.
    """
    counts = view_counts(rotations, _VIEW_ORDER, symmetry).double()
    seen = counts > 0
    views, weight = OrientationGrid(_VIEW_ORDER).directions()[seen], counts[seen]
    reach = 0.5 / shell
    across = ((OrientationGrid(order).directions() @ views.T).abs() <= reach).double() @ weight
    return across / (weight.sum() * reach).clamp_min(1.0)
