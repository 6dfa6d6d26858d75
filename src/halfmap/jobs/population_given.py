"""What a species is made of, as jobs are given it: half-maps and mask on its grid, particles in items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from halfmap.data.half_sets import HALVES
from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.jobs.half_map_inputs import find_halves, read_halves, read_mask
from halfmap.jobs.population_members import OpenSource
from halfmap.jobs.population_particles import read_particles
from halfmap.jobs.population_report import outside_text
from halfmap.jobs.reference_inputs import dark_reach, extent_angstrom
from halfmap.multiparticle.half_orientation import check_orientation
from halfmap.multiparticle.linking import Link, link
from halfmap.multiparticle.species import (
    binary_mask,
    box_sphere,
    first_resolution_angstrom,
    fitted,
    mask_of_map,
    species_grid,
)

_CUT = 1.15
_NAMED = 10
_MOST_OUTSIDE = 0.5
_LITTLE_AGREEMENT = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenMaps:
    """Half-maps and mask on the grid of a species.

    Parameters
    ----------
    half1, half2 : inside the box's sphere.
    mask : 0 and 1.
    note : says where they come from and what was done to them.
    """

    half1: Volume
    half2: Volume
    mask: Volume
    note: str


def given_maps(
    halves: tuple[Path, Path | None],
    *,
    diameter_angstrom: float,
    mask: Path | None,
    mask_threshold: float | None,
    mask_low_pass_angstrom: float,
    pixel_size_angstrom: float | None,
    resample_to_angstrom: float | None,
    say: Callable[[str], None],
) -> GivenMaps:
    """Read half-maps and a mask and bring them to the grid of a species; without a mask, make one.

    Raises
    ------
    InputError
        A file is missing or no map, the density is dark, or the mask holds nothing.
    InconsistentDataError
        The half-maps do not belong together, as they lie otherwise or are of another hand, or the mask is on another
        grid.
    """
    paths = find_halves(*halves)
    first, second = read_halves(*paths, pixel_size_angstrom)
    given_mask = None if mask is None else read_mask(mask, first, paths[0], pixel_size_angstrom)
    field = min(first.grid.shape) * first.grid.pixel_size_angstrom
    if diameter_angstrom > field:
        raise InputError(
            f"The diameter of a species must fit into its half-maps' box of {field:.0f} Å; got "
            f"{diameter_angstrom:g} Å; give a smaller --diameter, or half-maps in a larger box."
        )
    grid = species_grid(diameter_angstrom, resample_to_angstrom or first.grid.pixel_size_angstrom)
    inside = box_sphere(grid)
    half1, half2 = (Volume(values=fitted(half, grid).values * inside, grid=grid) for half in (first, second))
    first_resolution_angstrom(half1, half2, diameter_angstrom=diameter_angstrom, seed=1)
    relation = check_orientation(half1, half2, diameter_angstrom=diameter_angstrom)
    if relation.direct < _LITTLE_AGREEMENT:
        say(
            f"Warning: half-maps agree little down to {relation.resolution_angstrom:.0f} Å, by a mean FSC of "
            f"{relation.direct:.2f}: they are coarse, or of two different particles."
        )
    mean = Volume(values=(half1.values + half2.values) / 2, grid=grid)
    if (reach := dark_reach(mean)) is not None:
        raise InputError(
            f"The half-maps of a species must be bright, above the solvent; got a mean that reaches from "
            f"{reach[0]:.3g} below to {reach[1]:.3g} above it; change their sign."
        )
    extent, _ = extent_angstrom(mean)
    if extent > _CUT * diameter_angstrom:
        say(
            f"Warning: the particle in the half-maps is about {extent:.0f} Å wide, more than the diameter of "
            f"{diameter_angstrom:g} Å: images are cut at it; give a larger --diameter."
        )
    if given_mask is None:
        made, threshold = mask_of_map(mean, low_pass_angstrom=mask_low_pass_angstrom, threshold=mask_threshold)
        how = "given" if mask_threshold is not None else "found from the map"
        of_mask = (
            f"The mask was made from their mean, low-passed at {mask_low_pass_angstrom:g} Å, at {threshold:.4g}, {how}."
        )
    else:
        made, of_mask = binary_mask(given_mask, grid), f"The mask is {mask}, where it reaches 0.25."
    old = first.grid
    change = (
        ""
        if old == grid
        else f", brought from {_spelled(old.side, old.pixel_size_angstrom)} to "
        f"{_spelled(grid.side, grid.pixel_size_angstrom)}"
    )
    note = f"Half-maps: {paths[0]} and {paths[1]}{change}. {of_mask}"
    say(note)
    return GivenMaps(half1=half1, half2=half2, mask=made, note=note)


def linked_particles(
    path: Path,
    sources: Sequence[OpenSource],
    *,
    coordinate_pixel_size_angstrom: float | None,
    shift_pixel_size_angstrom: float | None,
    say: Callable[[str], None],
) -> tuple[Link, tuple[str, ...]]:
    """Read particles and find their items.

    Returns
    -------
    link : with at least one particle.
    notes : in which pixels the table counts.

    Raises
    ------
    InputError
        No particle is in an item, or most of them lie outside.
    """
    given = read_particles(
        path,
        sources=sources,
        coordinate_pixel_size_angstrom=coordinate_pixel_size_angstrom,
        shift_pixel_size_angstrom=shift_pixel_size_angstrom,
    )
    for note in given.notes:
        say(note)
    not_used = {root: why for one in sources for root, why in one.items_not_used().items()}
    found = link(given.particles, [one.source for one in sources], not_used=not_used)
    of_source = ", ".join(f"{n} in {items} items of {name}" for name, (n, items) in found.n_of_source.items())
    say(f"{len(found.particles)} of {len(given.particles)} particles are in an item: {of_source}.")
    for one in found.unmatched[:_NAMED]:
        say(f"{one.name} ({one.n_particles} particles) is in no source: {one.reason}.")
    if len(found.unmatched) > _NAMED:
        say(f"… and {len(found.unmatched) - _NAMED} more names.")
    if not len(found.particles):
        first = found.unmatched[0]
        raise InputError(
            f"Particles of a species must be in items of its sources; got none of {len(given.particles)} in "
            f"{', '.join(one.source.name for one in sources)}, such as those in {first.name}: {first.reason}."
        )
    if found.n_outside > _MOST_OUTSIDE * len(found.particles):
        raise InputError(
            f"Particles must lie in the tomogram or image of their item; got {found.n_outside} of "
            f"{len(found.particles)} outside; give the pixels in which the table counts with --coordinate-pixel-size."
        )
    if found.n_outside:
        say(f"Warning: {outside_text(found)}")
    for half in HALVES:
        if half not in found.particles.random_subset:
            say(f"Warning: none of them is in half-set {half}; a species needs both half-sets to be refined.")
    return found, given.notes


def _spelled(side: int, pixel_size_angstrom: float) -> str:
    return f"{side} px of {pixel_size_angstrom:.5g} Å"
