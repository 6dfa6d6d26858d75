"""Particles that come in portions end in the classes that they would have had if all had been there at once.

So they do at a server that is killed on the way, bit for bit as in peace.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.classification import class2d
from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.compute.in_process import InProcessExecutor
from halfmap.compute.progress import SilentProgress
from halfmap.fourier import shells, slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.geometry.shapes import soft_disc
from halfmap.io import relion
from halfmap.io.mrc import map_data
from halfmap.project.parameters_json import to_json
from halfmap.sessions import plan, store
from halfmap.sessions.cycle import run_cycle
from halfmap.sessions.index import ParticleIndex, index_of
from halfmap.sessions.observation import Observation
from halfmap.sessions.settings import LiveSettings
from halfmap.sessions.watching import open_source
from support.live_folders import GRID, PER_MICROGRAPH, LiveFolder
from support.quick_processes import Forking
from support.quick_servers import QuickServer, until

SETTINGS = LiveSettings(
    mask_radius_angstrom=60.0,
    classes=6,
    startup_cycles=10,
    refinement_cycles=5,
    initial_resolution_angstrom=30.0,
    final_resolution_angstrom=10.0,
    particles_per_class=100,
    classification_type="incremental",
)
PORTIONS = 5


def adjusted_rand_index(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Return the agreement of two partitions beyond chance: Hubert and Arabie 1985, J. Classif. 2, 193."""
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)
    pairs = [float((sums * (sums - 1) / 2).sum()) for sums in (table, table.sum(1), table.sum(0))]
    by_chance = pairs[1] * pairs[2] / (len(first) * (len(first) - 1) / 2)
    return (pairs[0] - by_chance) / (0.5 * (pairs[1] + pairs[2]) - by_chance)


def frc_to(truth: Tensor, average: Tensor) -> Tensor:
    """Return the FRC of an average with what it shows, turned and moved onto it; shape (n_shells,)."""
    mask = soft_disc(GRID, 50.0, 8.0, dtype=torch.float64)
    angles = torch.arange(0.0, 360.0, 2.0, dtype=torch.float64)
    zero = torch.zeros_like(angles)
    padded = slices.prepare(truth.double(), GRID, padding=3)
    band = FourierBand(GRID)
    turned = GRID.irfft(band.scatter(slices.extract(padded, matrix_from_euler(zero, zero, angles), band)))
    own = GRID.rfft(average.double() * mask)
    crossed = GRID.irfft(GRID.rfft(turned).conj() * own)
    best = int(crossed.flatten(1).amax(1).argmax())
    peak = int(crossed[best].flatten().argmax())
    centre = GRID.side // 2
    moved = torch.roll(turned[best], (peak // GRID.side - centre, peak % GRID.side - centre), dims=(0, 1))
    return shells.frc(GRID.rfft(moved * mask), own, GRID)


def resolved_shells(averages: NDArray, numbers: NDArray[np.int64], folder: LiveFolder) -> float:
    """Return the shell up to which averages agree with the truth, FRC 0.5, the mean over particles."""
    total = 0.0
    for number in np.unique(numbers):
        rows = numbers == number
        shown = int(np.bincount(folder.classes[rows]).argmax())
        curve = frc_to(folder.truth[shown], torch.from_numpy(np.array(averages[number])))
        below = torch.nonzero(curve[1:] < 0.5)
        total += rows.sum() * (1 + int(below[0]) if len(below) else len(curve))
    return total / len(numbers)


def streamed(work: Path, folder: LiveFolder, n_micrographs: int) -> tuple[NDArray[np.int64], NDArray, ParticleIndex]:
    """Return classes, averages and particles of a session into which micrographs come in portions."""
    source, seen, number, risen = open_source(folder.path, Path("unused")), Observation(), 0, 0
    step = n_micrographs // PORTIONS
    work.mkdir()
    with InProcessExecutor() as executor:
        for portion in range(PORTIONS):
            folder.arrive(range(portion * step, (portion + 1) * step))
            for _ in range(2):
                seen = source.poll(seen)
            kind = plan.job_type(SETTINGS, has_classes=number > 0, forced=False)
            cycles = plan.cycles_of(SETTINGS, seen.n_particles, kind=kind, n_when_risen=risen)
            risen = seen.n_particles if cycles[0].kind in ("seed", "startup") else risen
            for cycle in cycles:
                number += 1
                store.prepare(
                    work, number, observation=seen, folder=folder.path, settings=to_json(SETTINGS),
                    plan=asdict(cycle), is_ab_initio=kind == "abinit",
                )  # fmt: skip
                run_cycle(work, number, executor, SilentProgress(), lambda name: None)
    last = store.folder_of(work, number)
    table = relion.read_particles(last / store.DATA)
    return table["class_number"] - 1, np.array(map_data(last / store.CLASSES)), index_of(seen)


def at_once(folder: LiveFolder, index: ParticleIndex, rows: NDArray, seed: int) -> tuple[NDArray[np.int64], NDArray]:
    """Return classes and averages of a batch of all particles."""
    from halfmap.data.image_source import ArraySource

    params = ClassificationParams(
        classes=SETTINGS.classes,
        mask_diameter_angstrom=2 * SETTINGS.mask_radius_angstrom,
        algorithm="em",
        max_alignment_resolution_angstrom=SETTINGS.final_resolution_angstrom,
        closing_passes=0,
        seed=seed,
    )
    with InProcessExecutor() as executor:
        problem = ClassificationProblem.of(
            index.particles,
            ArraySource(images=folder.images, grid=GRID),
            params,
            executor,
            index=rows,
            background_mean=index.background_mean,
            background_deviation=index.background_deviation,
        )
        state = class2d.start(problem, params, executor)
        while not class2d.is_done(params, state):
            state = class2d.advance(problem, params, state, executor)
    return state.assignments.class_index, state.references.unmasked.numpy()


def served_and_killed(project: Path, filled: LiveFolder, forking: Forking, n_micrographs: int) -> Path:
    """Return the last cycle of a session at a server whose processes are killed once in each portion's job."""
    folder = filled.copied(project / "data" / "acquisition")
    folder.rows.clear()
    folder.table.unlink()
    step = n_micrographs // PORTIONS
    thresholds = {"first_threshold": step * PER_MICROGRAPH, "next_threshold": step * PER_MICROGRAPH}
    live = QuickServer(forking, project)
    live.client.start_automatic(live.session, **asdict(SETTINGS) | thresholds)
    for portion in range(PORTIONS):
        for number in range(portion * step, (portion + 1) * step):
            folder.add_rows(number)
        folder.write_table()
        until(lambda: live.is_in("E-step"), "an E-step")
        if portion % 2:
            live.kill_worker()
        else:
            live.kill_server()
        until(lambda: live.jobs_ended() == portion + 1, "the end of a job")  # noqa: B023
    live.process.close()
    return store.folder_of(live.work, store.published(live.work)[-1]["number"])


@pytest.mark.slow
def test_streaming_in_five_portions_equals_a_batch(tmp_path: Path, forking: Forking) -> None:
    n_micrographs = 50
    folder = LiveFolder(tmp_path / "acquisition", n_micrographs=n_micrographs, n_classes=4, deviation=2.0)
    classes, averages, index = streamed(tmp_path / "work", folder, n_micrographs)
    last = served_and_killed(tmp_path / "project", folder, forking, n_micrographs)
    np.testing.assert_array_equal(relion.read_particles(last / store.DATA)["class_number"] - 1, classes)
    np.testing.assert_array_equal(np.array(map_data(last / store.CLASSES)), averages)
    names = index.particles["micrograph_name"].tolist()
    rows = np.array([int(name[3:6]) for name in names]) * PER_MICROGRAPH + index.section
    order = np.argsort(rows)
    assert (rows[order] == np.arange(n_micrographs * PER_MICROGRAPH)).all()
    batches = [at_once(folder, index, rows, seed) for seed in (1, 2)]
    between_seeds = adjusted_rand_index(batches[0][0], batches[1][0])
    with_stream = [adjusted_rand_index(classes, one) for one, _ in batches]
    resolved = [resolved_shells(images, numbers[order], folder) for numbers, images in batches]
    own = resolved_shells(averages, classes[order], folder)
    print(f"adjusted Rand index: between seeds {between_seeds:.3f}, with the stream {with_stream}")
    print(f"shells resolved against the truth: batches {resolved}, stream {own:.2f}")
    assert min(with_stream) >= between_seeds - 0.05
    assert own >= min(resolved) - 1
