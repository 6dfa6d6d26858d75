"""Class averages whose worth is known: stacks simulated with junk, classified, and compared with the truth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap import keyed_random
from halfmap.classification import agreement
from halfmap.classification.class2d import classify
from halfmap.classification.nearest_projection import nearest_projections
from halfmap.classification.params import ClassificationParams
from halfmap.classification.ranking.features import describe
from halfmap.classification.ranking.labels import FINEST_CYCLES, Examples, purity_of_classes
from halfmap.data.atomic_models import AtomicModel
from halfmap.data.class_averages import ClassRun
from halfmap.data.image_source import ArraySource
from halfmap.data.volumes import Volume
from halfmap.extraction.normalisation import background_mask, normalise
from halfmap.fourier.resample import crop_or_pad
from halfmap.io.atoms import read_atoms
from halfmap.io.mrc import read_volume
from halfmap.simulation import particles as simulation
from halfmap.simulation.params import ParticleSimulationParams
from halfmap.simulation.references import Reference, reference_of_atoms, reference_of_map
from halfmap.simulation.specimens import PRESETS, specimen
from halfmap.tensors import Images
from halfmap.units import Length

_BOXES = (48, 52, 56, 60, 64)
_LEAST_PIXEL_ANGSTROM = 1.5
_EDGE_PIXEL = 2.0
_B_FACTOR_ANGSTROM2 = 80.0
_AT_ONCE = 128
_MINIBATCHES_PER_ITERATION = 3
_MOST_SAMPLES = 150


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A structure to make images of.

    Parameters
    ----------
    name : of a built-in specimen, or of a file without its ending.
    path : of a model or map; None for a built-in specimen.
    is_map : whether the file holds a map.
    """

    name: str
    path: Path | None = None
    is_map: bool = False

    @property
    def symmetry(self) -> str:
        """Point group whose axes are known to lie as halfmap's do; C1 for files."""
        if self.path is not None:
            return "C1"
        return PRESETS[self.name][0].symmetry if self.name in PRESETS else self.name.split("-")[1].upper()

    @property
    def nominal_diameter_angstrom(self) -> float:
        """Diameter that the name tells; infinite for files."""
        if self.path is not None:
            return math.inf
        return PRESETS[self.name][0].diameter_angstrom if self.name in PRESETS else float(self.name.split("-")[2])


class _Loaded:
    """A structure that has been read or built."""

    def __init__(self, structure: Structure) -> None:
        self._structure = structure

    @cached_property
    def _density(self) -> AtomicModel | Volume:
        if self._structure.path is None:
            return specimen(self._structure.name)
        if self._structure.is_map:
            return read_volume(self._structure.path)
        return read_atoms(self._structure.path).centred()

    @cached_property
    def diameter_angstrom(self) -> float:
        """Diameter of the circle that holds its views."""
        density = self._density
        if isinstance(density, AtomicModel):
            return density.centred().diameter_angstrom
        return self.reference(2 * density.grid.pixel_size_angstrom).diameter_angstrom

    def reference(self, pixel_size_angstrom: float) -> Reference:
        """Return the reference of a pixel size."""
        name, density = self._structure.name, self._density
        if isinstance(density, AtomicModel):
            return reference_of_atoms(
                density, pixel_size_angstrom=pixel_size_angstrom, b_factor_angstrom2=_B_FACTOR_ANGSTROM2, name=name
            )
        return reference_of_map(
            density, pixel_size_angstrom=pixel_size_angstrom, b_factor_angstrom2=_B_FACTOR_ANGSTROM2, name=name
        )


@dataclass(frozen=True, kw_only=True)
class StackGroup:
    """Structures of which single and mixed stacks are made.

    Parameters
    ----------
    number : of the group, from 0.
    structures : one or two.
    n_stacks : how many stacks; the first, fourth … show the first structure, the second … the second, the third … both.
    most_particles : in a stack; they hold half of it at least.
    most_iterations : of the classification.
    seed : of all draws.
    """

    number: int
    structures: tuple[Structure, ...]
    n_stacks: int
    most_particles: int
    most_iterations: int
    seed: int


def groups_of(
    structures: Sequence[Structure],
    *,
    n_stacks: int,
    most_particles: int,
    most_iterations: int,
    seed: int,
    first: int = 0,
) -> list[StackGroup]:
    """Pair structures of like size.

    Parameters
    ----------
    n_stacks : of each pair.
    most_particles, most_iterations : of each stack.
    first : number of the first group.
    """
    ordered = sorted(structures, key=lambda structure: structure.nominal_diameter_angstrom)
    pairs = [tuple(ordered[start : start + 2]) for start in range(0, len(ordered), 2)]
    return [
        StackGroup(
            number=first + number,
            structures=pair,
            n_stacks=n_stacks,
            most_particles=most_particles,
            most_iterations=most_iterations,
            seed=seed,
        )
        for number, pair in enumerate(pairs)
    ]


def examples_of(group: StackGroup) -> Examples:
    """Simulate and classify the stacks of a group, and return what their classes are: a task."""
    loaded = [_Loaded(structure) for structure in group.structures]
    parts = []
    for number in range(group.n_stacks):
        shown = [(0,), (len(loaded) - 1,), tuple(range(len(loaded)))][number % 3]
        parts.append(
            _examples_of_stack(group, number, [group.structures[i] for i in shown], [loaded[i] for i in shown])
        )
    return Examples.joined(parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Stack:
    """A simulated stack and how it is to be classified."""

    problem: simulation.ParticleProblem
    images: Images
    params: ClassificationParams


def _examples_of_stack(
    group: StackGroup, number: int, structures: Sequence[Structure], loaded: Sequence[_Loaded]
) -> Examples:
    stack_number = group.number * group.n_stacks + number
    stack = _stack(group, stack_number, loaded)
    truth = stack.problem.truth
    hidden = ("rotation", "origin_angstrom", "class_number", simulation.KIND_COLUMN, simulation.JUNK_COLUMN)
    grid = stack.problem.grid(0)
    source = ArraySource(images=stack.images.numpy(), grid=grid)
    run = classify(truth.without_columns(*hidden), source, stack.params)
    diameter = stack.params.mask_diameter_angstrom
    seen = describe(run.averages, mask_diameter_angstrom=diameter)
    occupied = ~seen.is_empty
    n = int(occupied.sum())
    references = stack.problem.references[0]
    return Examples(
        images=seen.images[occupied],
        features=seen.features[occupied],
        purity=_purity(stack, run, [structure.symmetry for structure in structures])[occupied],
        frc=_frc(stack, run, structures)[occupied],
        n_particles=run.averages["n_particles"][occupied],
        stack=np.full(n, stack_number),
        structures=np.full(n, ", ".join(reference.name for reference in references), dtype=object),
        group=np.full(n, group.number),
    )


def _purity(stack: _Stack, run: ClassRun, symmetries: Sequence[str]) -> NDArray[np.float64]:
    truth = stack.problem.truth.select_uids(run.particles.uid)
    is_junk = truth[simulation.KIND_COLUMN] != simulation.PARTICLE
    return purity_of_classes(
        agreement.Truth(
            structure=np.where(is_junk, agreement.JUNK, truth["class_number"]),
            rotation=truth["rotation"],
            origin_angstrom=truth["origin_angstrom"],
            symmetries=symmetries,
        ),
        run.particles["class_number"],
        run.particles["origin_angstrom"],
        [reference.diameter_angstrom for reference in stack.problem.references[0]],
        run.averages["class_number"],
    )


def _frc(stack: _Stack, run: ClassRun, structures: Sequence[Structure]) -> NDArray[np.float64]:
    grid, diameter = run.averages.grid, stack.params.mask_diameter_angstrom
    maps = []
    for reference in stack.problem.references[0]:
        values, cube = crop_or_pad(reference.potential.values, reference.potential.grid, (grid.side,) * 3)
        maps.append(Volume(values=values, grid=cube))
    return nearest_projections(
        torch.from_numpy(np.array(run.averages["average"])),
        grid,
        maps,
        symmetries=[structure.symmetry for structure in structures],
        mask_diameter_angstrom=diameter,
        finest_angstrom=diameter / FINEST_CYCLES,
    ).mean_frc


def _stack(group: StackGroup, number: int, loaded: Sequence[_Loaded]) -> _Stack:
    """Draw the conditions of a stack and make its images."""
    seed = group.seed
    chance = keyed_random.uniform(seed, "conditions of a stack", number, size=16).tolist()
    diameters = [one.diameter_angstrom for one in loaded]
    diameter, box = max(diameters), _BOXES[int(chance[0] * len(_BOXES))]
    pixel = max(diameter * (1.35 + 0.5 * chance[1]) / box, _LEAST_PIXEL_ANGSTROM)
    n = int(group.most_particles * (0.5 + 0.5 * chance[2]))
    first = 0.3 + 0.4 * chance[3]
    params = ParticleSimulationParams(
        number=n,
        box_pixel=box,
        pixel_size_angstrom=pixel,
        snr=0.03 * 10 ** chance[4],
        b_factor_angstrom2=_B_FACTOR_ANGSTROM2,
        shift_sigma_angstrom=pixel * (1.0 + 1.5 * chance[5]),
        junk_fraction=0.1 + 0.4 * chance[6],
        preferred_orientation=0.0 if chance[7] < 0.5 else 24.0 * (chance[7] - 0.75),
        class_fractions=(first, 1 - first) if len(loaded) == 2 else (),
        particles_per_micrograph=50,
        seed=_seed(seed, number),
    )
    references = [one.reference(pixel) for one in loaded]
    problem = simulation.ParticleProblem(
        params=params,
        truth=simulation.draw_truth(params, len(references), diameters),
        references=[references],
        broken=[[reference.broken() for reference in references]],
    )
    images = _images(problem, crowding=max(0.0, chance[8] - 0.4), edges=max(0.0, chance[9] - 0.4))
    mask = min(diameter * (1.05 + 0.3 * chance[10]), 0.96 * box * pixel)
    algorithm: Literal["em", "vdam"] = "vdam" if chance[12] < 0.2 else "em"
    share = 0.6 + 0.4 * chance[13]
    return _Stack(
        problem=problem,
        images=images,
        params=ClassificationParams(
            classes=max(2, min(6 + int(10 * chance[11]), n // 20)),
            mask_diameter_angstrom=mask,
            algorithm=algorithm,
            iterations=max(1, round(group.most_iterations * share)),
            minibatches=max(1, round(_MINIBATCHES_PER_ITERATION * group.most_iterations * share)),
            max_kept_samples=_MOST_SAMPLES if algorithm == "em" else None,
            psi_step_degrees=10.0,
            offset_range=Length(3.0 + 3.0 * chance[14], in_pixels=True),
            closing_passes=3 if chance[15] < 0.5 else 0,
            seed=_seed(seed, number),
        ),
    )


def _seed(seed: int, number: int) -> int:
    return int(keyed_random.integers(0, 2**31, seed, "seed of a stack", number))


def _images(problem: simulation.ParticleProblem, *, crowding: float, edges: float) -> Images:
    """Return images as extraction leaves them, some with a neighbour, and of the empty ones some with an edge of film.

    Parameters
    ----------
    crowding : share of the images that show a neighbour.
    edges : share of the empty images that show an edge.
    """
    truth, params = problem.truth, problem.params
    scale = (params.snr / simulation.signal_variance(problem)) ** 0.5
    rows = np.arange(params.number)
    images = torch.cat(
        [simulation.images(problem, some, scale) for some in np.array_split(rows, math.ceil(len(rows) / _AT_ONCE))]
    )
    chance = keyed_random.uniform(params.seed, "crowding and edges", truth.uid, size=7)
    crowded = np.flatnonzero(chance[:, 0] < crowding)
    if len(crowded):
        images[crowded] += scale * simulation.clean_images(_neighbours(problem, chance), crowded)
    film = np.flatnonzero((truth[simulation.KIND_COLUMN] == "empty") & (chance[:, 3] < edges))
    for row in film:
        images[row] += _edge(problem, *chance[row, 4:])
    diameter = max(reference.diameter_angstrom for reference in problem.references[0])
    grid = problem.grid(0)
    radius = 0.5 * min(1.2 * diameter / grid.pixel_size_angstrom, 0.95 * grid.side)
    return normalise(images.contiguous(), background_mask(grid.side, radius))[0]


def _neighbours(problem: simulation.ParticleProblem, chance: NDArray[np.float64]) -> simulation.ParticleProblem:
    """Return the problem of another particle beside each: one that touches it or lies up to half a diameter away."""
    truth = problem.truth
    diameter = np.array([reference.diameter_angstrom for reference in problem.references[0]])
    away = diameter[truth["class_number"] - 1] * (0.95 + 0.55 * chance[:, 1])
    angle = 2 * math.pi * chance[:, 2]
    beside = away[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    turned = np.roll(truth["rotation"], 1, axis=0)
    return simulation.ParticleProblem(
        params=problem.params,
        truth=truth.with_columns(
            rotation=turned,
            origin_angstrom=truth["origin_angstrom"] - beside,
            **{simulation.KIND_COLUMN: np.full(len(truth), simulation.PARTICLE, dtype=object)},
        ),
        references=problem.references,
        broken=problem.broken,
    )


def _edge(problem: simulation.ParticleProblem, strength: float, angle: float, place: float) -> Images:
    """Return a straight step of film, one to three deviations of the noise high, shape (side, side)."""
    grid = problem.grid(0)
    across = torch.tensor([math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)], dtype=torch.float64)
    distance = grid.positions() @ across / grid.pixel_size_angstrom - 0.3 * (place - 0.5) * grid.side
    return (1.0 + 2.0 * strength) * torch.sigmoid(distance / _EDGE_PIXEL).float()
