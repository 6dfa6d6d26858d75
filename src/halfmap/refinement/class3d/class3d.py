"""3D classification by expectation maximisation: each particle is compared with all maps in every iteration.

A step of halfmap: `start`, `advance` until `is_done`, then `finish`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.compute.executor import Executor
from halfmap.compute.progress import Progress
from halfmap.data.class3d_run import Class3DRun
from halfmap.data.image_source import ImageSource
from halfmap.data.particles import ParticleSet
from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.fourier import shells
from halfmap.fourier.filters import apply_filter, low_pass
from halfmap.fourier.slices import PaddedGrid
from halfmap.inference import expectation
from halfmap.inference.beliefs import Beliefs, measured_norms, updated_beliefs
from halfmap.inference.expectation import Model
from halfmap.inference.first_noise import first_noise_variance
from halfmap.inference.iterate import grown
from halfmap.inference.maximisation import MIN_OFFSET_VARIANCE_ANGSTROM2
from halfmap.inference.posterior import Search
from halfmap.inference.priors import Priors
from halfmap.inference.reconstruction import SliceAccumulator
from halfmap.inference.sampling import perturbation
from halfmap.inference.sums import Sums
from halfmap.refinement import decisions
from halfmap.refinement.class3d.params import Classification3DParams
from halfmap.refinement.class3d.result import class3d_run
from halfmap.refinement.class3d.search import search_of
from halfmap.refinement.class3d.state import ClassAssignments, Classification3DState, ClassMaps
from halfmap.refinement.refine3d import CORRELATION_POWER, FIRST_SHELLS_BEYOND, SCALE_SIGNAL_TO_NOISE
from halfmap.refinement.volume_problem import VolumeProblem

STILL_SHARE = 0.01
"""Share of particles that change class below which nothing changes."""

SHELLS_EACH = 1
"""Shells that each iteration compares more than the one before: classes part by what is coarse, of which every particle
is a small share, before finer shells, in which a particle meets itself, would keep it where it is."""

SETTLED_SHARE = 0.03
"""With known poses: share of particles that change class below which the next iteration compares a shell more."""

HELD_ITERATIONS = 2
"""With known poses: iterations after which it does so in any case."""

TURNS = 12
"""With known poses: first iterations, in which halves of the particles take turns. Each is told its classes by maps in
which it has no part, so that no particle meets itself."""

LEAST_SHARE_IN_TURNS = 0.5
"""Share of the particles below which a class ends the turns, relative to what it would have were all alike: its map,
the noisiest, fits particles without a part in it worse, so that turns would take the class all that it has."""

_LEAST_ITERATIONS = 10
_STILL_ITERATIONS = 2
_LEAST_GAIN = 1e-5  # of the log-likelihood


def padding(params: Classification3DParams) -> int:
    """Return by how much maps are padded before their transform."""
    return 1 if params.skip_padding else 2


def problem_of(
    particles: ParticleSet,
    images: ImageSource,
    params: Classification3DParams,
    executor: Executor,
    *,
    solvent_mask: Tensor | None = None,
    index: ArrayLike | None = None,
    background_mean: ArrayLike = 0.0,
    background_deviation: ArrayLike = 1.0,
) -> VolumeProblem:
    """Put particles and images together.

    Parameters
    ----------
    particles, images, solvent_mask, index, background_mean, background_deviation : as of `VolumeProblem.of`.

    Raises
    ------
    InputError
        Numbers of particles and images differ, the mask is larger than the box, the symmetry is unknown, or angles that
        are to be kept or searched around are missing.
    ShapeError
        The solvent mask has another shape than the maps.
    """
    if (params.skip_alignment or params.local) and "rotation" not in particles:
        raise InputError(
            "Particles must have angles where these are kept (--skip-alignment) or searched around (--local); got "
            "none; give the particles of a refinement."
        )
    return VolumeProblem.of(
        particles,
        images,
        executor,
        mask_diameter_angstrom=params.mask_diameter_angstrom,
        mask_edge_pixel=params.mask_edge_pixel,
        symmetry=params.symmetry,
        ctf=params.ctf,
        ctf_intact_first_peak=params.ctf_intact_first_peak,
        seed=params.seed,
        solvent_mask=solvent_mask,
        index=index,
        background_mean=background_mean,
        background_deviation=background_deviation,
    )


def start(
    problem: VolumeProblem, params: Classification3DParams, references: Sequence[Volume]
) -> Classification3DState:
    """Make the first state: noise spectra, low-passed references, and no class.

    Parameters
    ----------
    references : one, or one for each class; on the grid of the maps.

    Raises
    ------
    InputError
        There are neither one nor K references, or one is not on the grid of the maps.
    """
    if len(references) not in (1, params.classes):
        raise InputError(
            f"There must be one reference, or one for each of {params.classes} classes; got {len(references)}."
        )
    for volume in references:
        if volume.grid != problem.volume_grid:
            raise InputError(f"A reference must be on the maps' grid {problem.volume_grid}; got {volume.grid}.")
    n, n_shells = len(problem.particles), shells.n_shells(problem.grid)
    given = problem.particles
    empty = torch.zeros((params.classes, n_shells), dtype=torch.float64)
    return Classification3DState(
        iteration=0,
        maps=ClassMaps(
            references=torch.stack([_low_passed(problem, params, volume.values.float()) for volume in references]),
            fractions=torch.full((params.classes,), 1 / params.classes, dtype=torch.float64),
            ssnr=empty,
            error_variance=empty,
            completeness=empty,
        ),
        assignments=ClassAssignments(
            class_index=np.full(n, -1, dtype=np.int64),
            rotation=np.array(given["rotation"]) if "rotation" in given else np.tile(np.eye(3), (n, 1, 1)),
            origin_angstrom=np.array(given.get("origin_angstrom", np.zeros((n, 2))), dtype=np.float64),
            norm=np.ones(n),
            max_probability=np.zeros(n),
            log_likelihood=np.zeros(n),
            lost_mass=np.zeros(n),
            n_significant=np.zeros(n, dtype=np.int64),
        ),
        noise_variance=first_noise_variance(problem.data),
        scale=np.ones(problem.data.n_micrographs),
        offset_sigma_angstrom=params.initial_offset_sigma_angstrom,
        shell=min(_first_shell(problem, params) + FIRST_SHELLS_BEYOND, problem.grid.side // 2 - 1),
    )


def is_done(state: Classification3DState) -> bool:
    """Return whether the classification has ended."""
    return state.outcome != "running"


def advance(
    problem: VolumeProblem,
    params: Classification3DParams,
    state: Classification3DState,
    executor: Executor,
    progress: Progress | None = None,
) -> Classification3DState:
    """Run an iteration: an E-step against all maps, then new maps.

    Notes
    -----
    In the first one, images are compared by correlation, since nothing is known of the references' grey scale; and
    from a single reference each class begins with particles of its own, drawn at random. With known poses the first
    iterations take half of the particles each, in turn (`TURNS`), as long as no class is small
    (`LEAST_SHARE_IN_TURNS`).
    """
    began = time.monotonic()
    iteration, n = state.iteration + 1, len(problem.particles)
    is_first = iteration == 1
    moved = perturbation(params.seed, iteration, state.perturbation, params.perturbation)
    first = _first_shell(problem, params)
    known = min(state.shell, first + SHELLS_EACH * n_steps(params, state.history))
    wide = float("inf") if iteration <= 2 else float(state.history["median_n_significant"][-1])
    search = search_of(problem, params, moved, reference_shell=known, shell=state.shell, median_n_significant=wide)
    if is_first:
        search = replace(search, low_share=1.0)
    begins, uids = is_first and len(state.maps.references) < params.classes, problem.particles.uid
    first_classes = keyed_random.parts(params.seed, "first classes", uids, params.classes) if begins else None
    rows = np.arange(n, dtype=np.int64)
    if takes_turns(params, state.history) and (begins or not is_first):
        half = rows[keyed_random.parts(params.seed, "halves that take turns", uids, 2) == iteration % 2]
        if first_classes is None or len(np.unique(first_classes[half])) == params.classes:
            rows = half  # else one of so few particles would leave a class without a first map
    if progress is not None:
        progress.start(f"Iteration {iteration}", len(rows))
    parts = [rows] if first_classes is None else [rows[first_classes[rows] == c] for c in range(params.classes)]
    sums = [_expected(problem, params, state, search, part, executor, progress) for part in parts]
    accumulators = [
        SliceAccumulator(
            data=one.slices.data[0, c],
            weight=one.slices.weight[0, c],
            grid=PaddedGrid(problem.volume_grid, padding=padding(params)),
        ).symmetrised(problem.symmetry)
        for one in sums
        for c in range(one.slices.data.shape[1])
    ]
    mass = torch.cat([one.class_mass[0] for one in sums])
    fractions = mass / mass.sum()
    ratio = torch.stack([_signal_to_noise(problem, one, search.shell) for one in accumulators])
    # one filter for all: by its own, the class with fewer particles would be the fainter, and lose them all
    common = (fractions[:, None] * ratio).sum(0)
    maps = ClassMaps(
        references=torch.stack([_reference(problem, params, one, common, is_first=is_first) for one in accumulators]),
        fractions=fractions,
        ssnr=params.regularisation / problem.data.mask_power * ratio,
        error_variance=torch.stack([one.error_variance() for one in accumulators]),
        completeness=torch.stack([one.completeness() for one in accumulators]),
    )
    assignments = _assigned(problem, params, state.assignments, sums, first_classes, is_first=is_first)
    beliefs = Beliefs(noise_variance=state.noise_variance, scale=state.scale)
    if not is_first:  # residuals against references of another scale say nothing
        beliefs = updated_beliefs(problem.data, beliefs, sums[0], scale_correction=params.scale_correction)
    variance = sum(float(one.offset_square.sum()) for one in sums) / (2 * float(mass.sum()))
    resolved = max(decisions.resolution_shell(ssnr / (1 + ssnr)) for ssnr in maps.ssnr)
    after = replace(
        state,
        iteration=iteration,
        maps=maps,
        assignments=assignments,
        noise_variance=beliefs.noise_variance,
        scale=beliefs.scale,
        offset_sigma_angstrom=max(variance, MIN_OFFSET_VARIANCE_ANGSTROM2) ** 0.5,
        shell=min(max(resolved, first) + FIRST_SHELLS_BEYOND, problem.grid.side // 2 - 1),
        perturbation=moved,
    )
    changed = float((assignments.class_index != state.assignments.class_index)[rows].mean())
    row = {
        "iteration": iteration,
        "resolution_angstrom": problem.field_angstrom / resolved if resolved else float("inf"),
        "shell": state.shell,
        "changed_share": float("nan") if is_first else changed,
        "mean_max_probability": float(assignments.max_probability[rows].mean()),
        "log_likelihood": n * float(assignments.log_likelihood[rows].mean()),
        "median_n_significant": float(np.median(assignments.n_significant[rows])),
        "lost_mass": float(assignments.lost_mass[rows].mean()),
        "offset_sigma_angstrom": after.offset_sigma_angstrom,
        "smallest_fraction": float(maps.fractions.min()),
        "seconds": time.monotonic() - began,
    }
    history = grown(state.history, row)
    return replace(after, history=history, outcome=outcome(params, history))


def finish(problem: VolumeProblem, params: Classification3DParams, state: Classification3DState) -> Class3DRun:
    """Return what a state says of classes and particles."""
    return class3d_run(problem, params, state)


def outcome(params: Classification3DParams, history: Mapping[str, NDArray[np.float64]]) -> str:
    """Return ``converged``, ``iteration limit`` or ``running`` from the history.

    Notes
    -----
    Converged: in two iterations, of all particles, hardly a particle has changed class, and the likelihood has not
    grown.
    """
    changed, likelihood = history["changed_share"], history["log_likelihood"]
    if params.stop_early and len(changed) >= max(_LEAST_ITERATIONS, n_turns(params) + _STILL_ITERATIONS):
        still = bool((changed[-_STILL_ITERATIONS:] < STILL_SHARE).all())
        gain = (likelihood[-1] - likelihood[-1 - _STILL_ITERATIONS]) / abs(likelihood[-1])
        if still and gain < _LEAST_GAIN:
            return "converged"
    return "iteration limit" if len(changed) >= params.iterations else "running"


def _expected(
    problem: VolumeProblem,
    params: Classification3DParams,
    state: Classification3DState,
    search: Search,
    rows: NDArray[np.int64],
    executor: Executor,
    progress: Progress | None,
) -> Sums:
    references = state.maps.references
    K = len(references)
    is_first = state.iteration == 0
    around = params.skip_alignment or params.local
    told = torch.nonzero((state.maps.ssnr / params.regularisation > SCALE_SIGNAL_TO_NOISE).all(0)).flatten()
    model = Model(
        references=references,
        padding=padding(params),
        priors=Priors(
            # not the shares so far: while images hardly tell the class, these would feed the larger one
            fractions=torch.full((K,), 1 / K, dtype=torch.float64),
            offset_sigma_angstrom=state.offset_sigma_angstrom,
            prior_offset_angstrom=torch.zeros((K, 2), dtype=torch.float64),
        ),
        noise_variance=state.noise_variance,
        scale=state.scale,
        norm=state.assignments.norm,
        origin_angstrom=state.assignments.origin_angstrom,
        search=search,
        rotation=state.assignments.rotation if around else None,
        keep_origin=params.skip_alignment,
        iteration=state.iteration + 1,
        scale_shell=int(told[-1]) if params.scale_correction and not is_first and len(told) else 0,
        slice_power=CORRELATION_POWER if is_first else None,
    )
    return expectation.expect(problem.sent, model, problem.data, rows, executor, progress=progress)


def _signal_to_noise(problem: VolumeProblem, sums: SliceAccumulator, shell: int) -> Tensor:
    """Return the ratio of signal to noise of a class's unregularised map, shell by shell.

    Notes
    -----
    The signal is the power of the map within the mask, less what noise puts there. RELION takes that of the
    reference before, which cannot grow where it is 0, and in which noise counts as signal.
    """
    grid = problem.volume_grid
    plain = sums.volume().double()
    noise = sums.error_variance() * float(problem.solvent_mask.double().square().mean())
    power = 0.5 * shells.power_spectrum(grid.rfft(plain * problem.solvent_mask), grid)
    number = shells.shell_counts(grid).double().clamp(min=1)
    signal = (power - noise * (1 + (2 / number).sqrt())).clamp(min=0)
    error = sums.error_variance().clamp(min=1e-300)
    ratio = torch.where(sums.error_variance() > 0, signal / error, torch.zeros_like(error))
    ratio[shell + 1 :] = 0.0
    return ratio


def _reference(
    problem: VolumeProblem,
    params: Classification3DParams,
    sums: SliceAccumulator,
    ratio: Tensor,
    *,
    is_first: bool,
) -> Tensor:
    """Return the map of a class, filtered by a ratio of signal to noise, and masked."""
    reference = sums.volume(ratio / (1 + ratio), params.regularisation / problem.data.mask_power)
    return _low_passed(problem, params, reference) if is_first else reference * problem.solvent_mask


def _assigned(
    problem: VolumeProblem,
    params: Classification3DParams,
    before: ClassAssignments,
    sums: Sequence[Sums],
    first_classes: NDArray[np.int64] | None,
    *,
    is_first: bool,
) -> ClassAssignments:
    columns = {name: getattr(before, name).copy() for name in ClassAssignments.__dataclass_fields__}
    for one in sums:
        found = one.estimates
        if params.norm_correction and not is_first:
            columns["norm"][found.row] = measured_norms(before.norm[found.row], found, problem.data.group[found.row])
        for name in columns:
            if name != "norm":
                columns[name][found.row] = getattr(found, name)
    if first_classes is not None:
        columns["class_index"] = first_classes
    return ClassAssignments(**columns)


def n_turns(params: Classification3DParams) -> int:
    """Return after how many iterations at most each is of all particles: 0 where poses are searched.

    The last one always is.
    """
    return min(TURNS, params.iterations - 1) if params.skip_alignment and params.classes > 1 else 0


def takes_turns(params: Classification3DParams, history: Mapping[str, NDArray[np.float64]]) -> bool:
    """Return whether the next iteration is of half of the particles; a first one of K references never is."""
    smallest = history.get("smallest_fraction", np.zeros(0))
    is_small = bool((smallest < LEAST_SHARE_IN_TURNS / params.classes).any())
    return len(smallest) < n_turns(params) and not is_small


def n_steps(params: Classification3DParams, history: Mapping[str, NDArray[np.float64]]) -> int:
    """Return how often an iteration has compared more than the one before, the next one counted.

    Notes
    -----
    Where poses are known, classes are given time to part by what is compared before finer shells join. Where poses are
    searched too, particles go on changing class, and each iteration takes a step.
    """
    changed = history.get("changed_share", np.zeros(0))
    if not params.skip_alignment:
        return len(changed)
    return max(int((changed < SETTLED_SHARE).sum()), len(changed) // HELD_ITERATIONS)


def _first_shell(problem: VolumeProblem, params: Classification3DParams) -> int:
    """Return the last shell of the low-passed references: where the soft edge ends."""
    last = int(np.ceil(problem.field_angstrom / params.initial_low_pass_angstrom - 1e-9)) + 1
    return max(1, min(last, problem.grid.side // 2 - 1))


def _low_passed(problem: VolumeProblem, params: Classification3DParams, volume: Tensor) -> Tensor:
    grid = problem.volume_grid
    passed = apply_filter(volume, grid, low_pass(grid, params.initial_low_pass_angstrom))
    return passed * problem.solvent_mask
