"""Built-in specimens: protein-like assemblies made from a seed, so that no file from outside is needed."""

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from halfmap import keyed_random
from halfmap.data.atomic_models import AtomicModel
from halfmap.errors import InputError
from halfmap.geometry.symmetry import operators
from halfmap.simulation import peptides

SHAPES = ("compact", "elongated", "hollow", "barrel")

_DOMAIN_SPACING_ANGSTROM = 28.0
_DOMAIN_RADIUS_ANGSTROM = 25.0
_BOUNDARY_ANGSTROM = 1.6
_HELIX_SPACING_ANGSTROM = 8.8
_SHEET_SPACING_ANGSTROM = 8.8
_HELICAL_FRACTION = 0.6
_SHORTEST_HELIX, _SHORTEST_STRAND = 5, 3
_RESIDUES_ACROSS_HELIX, _RESIDUES_ACROSS_STRAND = 36, 18
_CLASH_ANGSTROM = 3.0
_PLACEMENTS_TRIED = 24
_LONGEST_SIDE_CHAIN = 7
_SIDE_CHAIN_SKEW = 0.5
_TORSIONS_DEGREES = np.array([-65.0, 180.0, 62.0])
_GREEK = "GDEZHTI"


@dataclass(frozen=True, kw_only=True)
class SpecimenShape:
    """What a built-in specimen looks like.

    Parameters
    ----------
    symmetry : point group, as ``C1``, ``D2``, ``D7``, ``O`` or ``I``.
    diameter_angstrom : of the sphere around it; at least 60.
    shape : ``compact`` (a ball), ``elongated`` (a rod along z, two and a half times as long as wide), ``hollow`` (a
        shell) or ``barrel`` (a thick-walled tube along z, open at both ends).
    wall_angstrom : thickness of a hollow shell.

    Raises
    ------
    InputError
        An unknown shape, or a diameter outside its domain.
    """

    symmetry: str
    diameter_angstrom: float
    shape: str = "compact"
    wall_angstrom: float = 28.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError(f"A specimen's shape must be one of {', '.join(SHAPES)}; got {self.shape!r}; choose one.")
        if not 60 <= self.diameter_angstrom <= 1000:
            raise InputError(
                f"A specimen's diameter must be 60 to 1000 Å; got {self.diameter_angstrom:g} Å; choose one in between."
            )

    def depth_angstrom(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far each point, shape (n, 3), lies inside the surface; negative outside."""
        radius = self.diameter_angstrom / 2
        r = np.linalg.norm(positions, axis=1)
        if self.shape == "compact":
            return radius - r
        if self.shape == "hollow":
            return np.minimum(radius - r, r - (radius - self.wall_angstrom))
        across = np.linalg.norm(positions[:, :2], axis=1)
        along = np.abs(positions[:, 2])
        if self.shape == "elongated":
            width = radius / 2.5
            return width - np.hypot(across, np.maximum(along - (radius - width), 0.0))
        # a barrel's rim touches the sphere: half height and outer radius with the ratio of GroEL
        half_height, outer = 0.73 * radius, 0.683 * radius
        return np.minimum(np.minimum(half_height - along, outer - across), across - 0.34 * outer)


PRESETS: dict[str, tuple[SpecimenShape, int]] = {
    "compact-c1-80": (SpecimenShape(symmetry="C1", diameter_angstrom=80), 1),
    "compact-c1-100": (SpecimenShape(symmetry="C1", diameter_angstrom=100), 2),
    "compact-d2-120": (SpecimenShape(symmetry="D2", diameter_angstrom=120), 3),
    "elongated-c1-160": (SpecimenShape(symmetry="C1", diameter_angstrom=160, shape="elongated"), 4),
    "betagal-like-d2-180": (SpecimenShape(symmetry="D2", diameter_angstrom=180, shape="elongated"), 5),
    "groel-like-d7-190": (SpecimenShape(symmetry="D7", diameter_angstrom=190, shape="barrel"), 6),
    "ferritin-like-o-130": (SpecimenShape(symmetry="O", diameter_angstrom=130, shape="hollow"), 7),
    "compact-o-160": (SpecimenShape(symmetry="O", diameter_angstrom=160), 8),
    "ribosome-like-c1-250": (SpecimenShape(symmetry="C1", diameter_angstrom=250), 9),
    "capsid-like-i-290": (SpecimenShape(symmetry="I", diameter_angstrom=290, shape="hollow", wall_angstrom=32), 10),
    "capsid-like-i-400": (SpecimenShape(symmetry="I", diameter_angstrom=400, shape="hollow", wall_angstrom=35), 11),
}
"""Named specimens, each with its seed."""

_PATTERN = re.compile(r"^(compact|elongated|hollow|barrel)-([a-z]\d*)-(\d+)(?:-(\d+))?$")


def specimen(name: str) -> AtomicModel:
    """Return a built-in specimen by name.

    Parameters
    ----------
    name : a key of `PRESETS`, or ``shape-symmetry-diameter``, or the same with ``-seed``, as ``hollow-d4-150-3``.

    Raises
    ------
    InputError
        There is no such specimen.
    """
    if name in PRESETS:
        return assembly(*PRESETS[name])
    match = _PATTERN.match(name.lower())
    if match is None:
        raise InputError(
            f"A specimen must be one of {', '.join(PRESETS)}, or shape-symmetry-diameter as compact-d3-140 (shapes: "
            f"{', '.join(SHAPES)}); got {name!r}; choose one."
        )
    shape = SpecimenShape(shape=match[1], symmetry=match[2].upper(), diameter_angstrom=float(match[3]))
    return assembly(shape, int(match[4] or 0))


def assembly(shape: SpecimenShape, seed: int) -> AtomicModel:
    """Fill a shape with ideal helices and strands under a symmetry.

    Parameters
    ----------
    shape : outline, size and point group.
    seed : each seed gives another specimen.

    Returns
    -------
    AtomicModel
        Centred on its centre of mass (which is the origin for all but cyclic symmetries) with its
        symmetry axes where `geometry.symmetry.operators` has them; copies of the asymmetric unit
        follow one another.

    Raises
    ------
    InputError
        The shape is too small to hold a single domain of that symmetry.

    Notes
    -----
    Domain centres are thrown at least 28 Å apart, together with their symmetry mates. A domain owns the
    points nearest to its centre within 25 Å and is filled with a bundle of parallel and antiparallel
    helices or a stack of antiparallel sheets, in the best of several random placements; atoms keep
    clear of the walls between domains, so neither neighbours nor symmetry mates clash. Side chains
    grow into what space is left.
    """
    group = np.asarray(operators(shape.symmetry), dtype=np.float64)
    centres = _domain_centres(shape, group, seed)
    others = group[np.linalg.norm(group - np.eye(3), axis=(1, 2)) > 1e-6]
    everyone = np.concatenate([centres, np.einsum("gij,nj->gni", others, centres).reshape(-1, 3)])
    walls = [_Domain.of(shape, everyone, number) for number in range(len(centres))]
    domains = [_fill_domain(domain, seed, number) for number, domain in enumerate(walls)]
    if not any(domains):
        raise InputError(
            f"A specimen must have room for its {len(group)} symmetric units; got a diameter of "
            f"{shape.diameter_angstrom:g} Å for {shape.symmetry}; choose a larger one."
        )
    return _with_side_chains(domains, walls, seed).repeated(group).centred()


def _domain_centres(shape: SpecimenShape, group: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Throw centres into the shape, each clear of the others' and its own symmetry mates."""
    radius = shape.diameter_angstrom / 2
    volume_ratio = (2 * radius / _DOMAIN_SPACING_ANGSTROM) ** 3
    n_tries = int(60 * volume_ratio) + 500
    candidates = (2 * keyed_random.uniform(seed, "specimen domains", np.arange(n_tries), size=3) - 1) * radius
    depth = shape.depth_angstrom(candidates)
    thickness = min(0.45 * _DOMAIN_SPACING_ANGSTROM, 0.98 * float(depth.max()))
    candidates = candidates[depth >= thickness]
    others = group[np.linalg.norm(group - np.eye(3), axis=(1, 2)) > 1e-6]
    if len(others):
        own_mates = np.einsum("gij,nj->ngi", others, candidates)
        distance = np.linalg.norm(own_mates - candidates[:, None], axis=2).min(axis=1)
        candidates = candidates[distance >= _DOMAIN_SPACING_ANGSTROM]
    kept: list[NDArray[np.float64]] = []
    taken = np.empty((0, 3))
    for candidate in candidates:
        if len(taken) and np.linalg.norm(taken - candidate, axis=1).min() < _DOMAIN_SPACING_ANGSTROM:
            continue
        kept.append(candidate)
        taken = np.concatenate([taken, group @ candidate])
    return np.array(kept).reshape(-1, 3)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Domain:
    """The points nearer to one centre than to any other, within a radius and inside the shape."""

    shape: SpecimenShape
    centre: NDArray[np.float64]
    normals: NDArray[np.float64]
    wall_distances: NDArray[np.float64]

    @classmethod
    def of(cls, shape: SpecimenShape, centres: NDArray[np.float64], number: int) -> "_Domain":
        """Return the domain of one of all centres, with the walls that can touch it."""
        towards = centres - centres[number]
        distance = np.linalg.norm(towards, axis=1)
        near = (distance < 2 * _DOMAIN_RADIUS_ANGSTROM + 1) & (np.arange(len(centres)) != number)
        return cls(
            shape=shape,
            centre=centres[number],
            normals=towards[near] / distance[near, None],
            wall_distances=distance[near] / 2,
        )

    def room_angstrom(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far points, shape (..., 3), lie from the domain's wall; negative outside."""
        flat = points.reshape(-1, 3)
        local = flat - self.centre
        room = np.minimum(_DOMAIN_RADIUS_ANGSTROM - np.linalg.norm(local, axis=1), self.shape.depth_angstrom(flat))
        if len(self.normals):
            room = np.minimum(room, (self.wall_distances - local @ self.normals.T).min(axis=1))
        return room.reshape(points.shape[:-1])


def _fill_domain(domain: _Domain, seed: int, number: int) -> list[NDArray[np.float64]]:
    """Return the elements of one domain, each of shape (residues, 5, 3), in the best of several placements."""
    helical = float(keyed_random.uniform(seed, "specimen fold", number)) < _HELICAL_FRACTION
    draws = keyed_random.uniform(seed, "specimen placement", number, size=(_PLACEMENTS_TRIED, 6))
    best: list[NDArray[np.float64]] = []
    most = 0
    for attempt in draws:
        bundle = (_helix_bundle if helical else _sheet_stack)(attempt[3:], seed, number)
        placed = bundle @ _frame(attempt[:3]).T + domain.centre
        allowed = np.all(domain.room_angstrom(placed) >= _BOUNDARY_ANGSTROM, axis=-1)
        shortest = _SHORTEST_HELIX if helical else _SHORTEST_STRAND
        kept = [run for i in range(len(placed)) for run in _runs(placed[i], allowed[i], shortest)]
        count = sum(len(run) for run in kept)
        if count > most:
            best, most = kept, count
    return best


def _helix_bundle(draws: NDArray[np.float64], seed: int, number: int) -> NDArray[np.float64]:
    """Return helices along ±z on a hexagonal lattice that covers a domain, shape (helices, residues, 5, 3)."""
    columns = np.arange(-4, 5)
    i, j = (grid.ravel() for grid in np.meshgrid(columns, columns))
    x = _HELIX_SPACING_ANGSTROM * (i + j / 2 + draws[0])
    y = _HELIX_SPACING_ANGSTROM * (math.sqrt(3) / 2 * j + draws[1])
    near = np.hypot(x, y) < _DOMAIN_RADIUS_ANGSTROM
    angle, slide, up = keyed_random.uniform(seed, "specimen helix", number, size=(len(i), 3))[near].T
    upright = peptides.helix(_RESIDUES_ACROSS_HELIX)
    template = np.where(up[:, None, None, None] < 0.5, upright, peptides.turned_over(upright))
    turns = np.array([peptides.about_z(2 * math.pi * turn) for turn in angle])
    z = peptides.HELIX_RISE_ANGSTROM * (slide - 0.5)
    bundle: NDArray[np.float64] = np.einsum("hij,hrnj->hrni", turns, template)
    return bundle + np.stack([x[near], y[near], z], axis=1)[:, None, None]


def _sheet_stack(draws: NDArray[np.float64], seed: int, number: int) -> NDArray[np.float64]:
    """Return sheets normal to x, of antiparallel strands along ±z, that cover a domain."""
    slides = keyed_random.uniform(seed, "specimen sheet", number, size=(9, 2))
    upright = peptides.strand(_RESIDUES_ACROSS_STRAND)
    reverse = peptides.turned_over(upright) + np.array([0.0, 0.0, peptides.antiparallel_offset_angstrom()])
    stack = []
    for sheet, (slide_y, slide_z) in zip(range(-4, 5), slides, strict=True):
        x = _SHEET_SPACING_ANGSTROM * (sheet + draws[0])
        z = 2 * peptides.STRAND_RISE_ANGSTROM * (slide_z - 0.5)
        for row in range(-7, 8):
            y = peptides.STRAND_SPACING_ANGSTROM * (row + slide_y)
            if math.hypot(x, y) < _DOMAIN_RADIUS_ANGSTROM:
                stack.append((reverse if row % 2 else upright) + np.array([x, y, z]))
    return np.array(stack)


def _runs(atoms: NDArray[np.float64], allowed: NDArray[np.bool_], shortest: int) -> list[NDArray[np.float64]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], allowed, [False]]).astype(np.int8)))
    return [atoms[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop - start >= shortest]


def _with_side_chains(domains: list[list[NDArray[np.float64]]], walls: list[_Domain], seed: int) -> AtomicModel:
    """Grow side chains atom by atom where nothing is in the way, and gather everything into a model."""
    backbone = [element for domain in domains for element in domain]
    residues = np.concatenate(backbone)
    n = len(residues)
    numbers = np.concatenate([[len(run) + 1] for run in backbone]).cumsum()
    residue_numbers = np.concatenate(
        [np.arange(len(run)) + end - len(run) for run, end in zip(backbone, numbers, strict=True)]
    )
    draws = keyed_random.uniform(seed, "specimen side chains", np.arange(n), size=2 + _LONGEST_SIDE_CHAIN)
    lengths = np.rint(_LONGEST_SIDE_CHAIN * draws[:, 0] ** _SIDE_CHAIN_SKEW).astype(int)
    bases = np.split(np.arange(n), np.cumsum([sum(map(len, domain)) for domain in domains])[:-1])
    # a residue whose CB would touch another is a glycine
    has_cb = _without_clash(
        residues[:, 4], residue_numbers, residues[:, :4].reshape(-1, 3), np.repeat(residue_numbers, 4)
    )
    present = np.ones((n, 5), dtype=bool)
    present[:, 4] = has_cb
    owner = np.repeat(np.arange(n), 5)[present.ravel()]
    positions = residues.reshape(-1, 3)[present.ravel()]
    names = [np.tile(peptides.BACKBONE_NAMES, n)[present.ravel()]]
    elements = [np.tile(peptides.BACKBONE_ELEMENTS, n)[present.ravel()]]
    stem = residues[:, [0, 1, 4]]
    growing = np.flatnonzero(has_cb)
    for level in range(_LONGEST_SIDE_CHAIN):
        waiting = growing[lengths[growing] > level]
        grown = []
        for turn in (0.0, 120.0, 240.0):
            torsion = _TORSIONS_DEGREES[(draws[waiting, 2 + level] * 3).astype(int)] + turn
            tips = peptides.next_side_chain_atom(stem[waiting], torsion)
            free = _inside(tips, waiting, walls, bases)
            free[free] = _without_clash(tips[free], residue_numbers[waiting[free]], positions, residue_numbers[owner])
            added = waiting[free]
            positions, owner = np.concatenate([positions, tips[free]]), np.concatenate([owner, added])
            stem[added] = np.stack([stem[added, 1], stem[added, 2], tips[free]], axis=1)
            grown.append(added)
            waiting = waiting[~free]
        added = np.concatenate(grown)
        last = lengths[added] == level + 1
        tip = np.where(last & (draws[added, 1] < 0.3), "O", np.where(last & (draws[added, 1] > 0.75), "N", "C"))
        names.append(np.char.add(tip, _GREEK[level]))
        elements.append(tip)
        growing = np.sort(added)
    order = np.argsort(owner, kind="stable")
    return AtomicModel.of_protein(
        np.concatenate(elements)[order],
        positions[order],
        names=np.concatenate(names)[order],
        residue_numbers=residue_numbers[owner][order],
    )


def _inside(
    points: NDArray[np.float64], residues: NDArray[np.int64], walls: list[_Domain], bases: list[NDArray[np.int64]]
) -> NDArray[np.bool_]:
    """Return which points, one of each of these residues, keep clear of the wall of their own domain."""
    inside = np.zeros(len(points), dtype=bool)
    for wall, own in zip(walls, bases, strict=True):
        if len(own):
            part = slice(*np.searchsorted(residues, [own[0], own[-1] + 1]))
            inside[part] = wall.room_angstrom(points[part]) >= _CLASH_ANGSTROM / 2
    return inside


def _without_clash(
    candidates: NDArray[np.float64],
    candidate_owners: NDArray[np.int64],
    positions: NDArray[np.float64],
    owners: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Return which candidates come near no atom of another residue, nor a candidate before them."""
    free = np.ones(len(candidates), dtype=bool)
    if not len(candidates):
        return free
    tree = cKDTree(candidates)
    near = tree.sparse_distance_matrix(cKDTree(positions), _CLASH_ANGSTROM, output_type="ndarray")
    # bonded neighbours along the backbone are closer than a contact
    apart = np.abs(candidate_owners[near["i"]] - owners[near["j"]]) > 1
    free[near["i"][apart]] = False
    pairs = tree.query_pairs(_CLASH_ANGSTROM, output_type="ndarray")
    for first, second in pairs[np.lexsort(pairs.T[::-1])]:
        if free[first]:
            free[second] = False
    return free


def _frame(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a rotation, uniform over all, from three numbers in [0, 1)."""
    u, v, w = draws
    a, b = math.sqrt(1 - u), math.sqrt(u)
    x, y, z, s = (
        a * math.sin(2 * math.pi * v),
        a * math.cos(2 * math.pi * v),
        b * math.sin(2 * math.pi * w),
        b * math.cos(2 * math.pi * w),
    )
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - s * z), 2 * (x * z + s * y)],
            [2 * (x * y + s * z), 1 - 2 * (x * x + z * z), 2 * (y * z - s * x)],
            [2 * (x * z - s * y), 2 * (y * z + s * x), 1 - 2 * (x * x + y * y)],
        ]
    )
