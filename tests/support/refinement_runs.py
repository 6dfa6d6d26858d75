"""3D refinements: made up of a map that is known, and made by Debian's RELION (3.1.3)."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.data.class_averages import NoiseModel
from halfmap.data.refinement_run import RefinedHalf, RefinementRun
from halfmap.data.table import Table
from halfmap.data.volumes import Volume
from halfmap.fourier import filters, shells, slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.symmetric_volumes import symmetrise_volume
from halfmap.grid import ImageGrid
from halfmap.imaging.projection import project
from halfmap.io import mrc, relion
from halfmap.io.relion_refinement import write_refinement_run
from support.particle_sets import a_particle_set, some_optics

PIXEL_SIZE = 4.0
MASK_DIAMETER = 80.0
_BLOBS_ANGSTROM = ((16, 0, 2), (0, 20, 4), (-8, -12, 12), (4, -8, -20), (-14, 10, -6))


def blobs(grid: ImageGrid, *, symmetry: str = "C1", sigma_angstrom: float = 6.0) -> Volume:
    """Return five Gaussian blobs within 27 Å of the centre, without symmetry but the one asked for."""
    positions = grid.positions()
    centres = torch.tensor(_BLOBS_ANGSTROM, dtype=torch.float64)
    values = sum(torch.exp(-((positions - at) ** 2).sum(-1) / (2 * sigma_angstrom**2)) for at in centres).float()
    return Volume(values=symmetrise_volume(values, grid, symmetry), grid=grid)


def a_refinement_run(
    *,
    side: int = 24,
    n_particles: int = 60,
    n_optics_groups: int = 1,
    n_micrographs: int = 3,
    symmetry: str = "C1",
    iteration: int = 12,
    is_final: bool = False,
    noise: float = 0.15,
    seed: int = 1,
    **fields: object,
) -> RefinementRun:
    """Return a run whose half maps are one map with independent noise; ``fields`` replace those of the run."""
    random = np.random.default_rng(seed)
    grid = ImageGrid.cubic(side, PIXEL_SIZE)
    truth = blobs(grid, symmetry=symmetry).values
    drawn = torch.from_numpy(keyed_random.normal(seed, "half maps", np.arange(2), size=grid.shape)).float()
    plain = [truth + noise * one for one in drawn]
    fsc = shells.fsc(grid.rfft(plain[0]), grid.rfft(plain[1]), grid).numpy()
    fsc[0] = 1.0
    known = np.clip(fsc, 0.001, 0.999)
    ssnr = known / (1 - known)
    smooth = filters.low_pass(grid, 20.0)
    n_shells = side // 2 + 1
    particles = a_particle_set(
        n_particles,
        n_optics_groups=n_optics_groups,
        n_micrographs=n_micrographs,
        seed=seed,
        class_number=np.ones(n_particles, dtype=np.int64),
        norm_correction=random.uniform(0.8, 1.2, n_particles),
        max_probability=random.uniform(0.1, 1, n_particles),
        log_likelihood=random.normal(-2000, 30, n_particles),
        n_significant=random.integers(1, 99, n_particles),
        random_subset=1 + np.arange(n_particles) // 2 % 2,
        theirs=np.array([f"text{i}" for i in range(n_particles)], dtype=object),
    )
    optics = some_optics(n_optics_groups, pixel_size_angstrom=PIXEL_SIZE, image_size_pixel=side)
    names = particles["micrograph_name"]
    particles = type(particles)(columns={**particles.columns, "group_name": names}, optics=optics)
    groups = np.unique(names.astype(str)).astype(object)[::-1]
    halves = tuple(
        RefinedHalf(
            map=Volume(values=filters.apply_filter(one, grid, smooth), grid=grid),
            unregularised=Volume(values=one, grid=grid),
            noise=NoiseModel(
                optics_group=optics.numbers,
                noise_variance=random.uniform(1e-4, 1e-3, (n_optics_groups, n_shells)),
                group_name=groups,
                group_scale=random.uniform(0.8, 1.2, len(groups)),
            ),
            ssnr=ssnr,
            error_variance=random.uniform(1e-7, 1e-6, n_shells),
            completeness=random.uniform(0.5, 1, n_shells),
            offset_sigma_angstrom=float(random.uniform(2, 5)),
        )
        for one in plain
    )
    below = np.flatnonzero(fsc < 0.5)
    shell = int(below[0]) - 1 if len(below) else n_shells - 1
    run = RefinementRun(
        particles=particles,
        halves=(halves[0], halves[1]),
        joined=Volume(values=(plain[0] + plain[1]) / 2, grid=grid) if is_final else None,
        fsc=fsc,
        used_fsc=fsc,
        symmetry=symmetry,
        mask_diameter_angstrom=MASK_DIAMETER,
        iteration=iteration,
        healpix_order=3 if is_final else 2,
        is_local=False,
        offset_range_angstrom=12.0,
        offset_step_angstrom=3.0,
        rotation_accuracy_degrees=2.31,
        offset_accuracy_angstrom=1.27,
        resolution_angstrom=side * PIXEL_SIZE / shell,
        current_size_pixel=side if is_final else side - 2,
        regularisation=1.0,
        is_final=is_final,
        seed=3,
        settings={"rlnDoIgnoreCtfUntilFirstPeak": "1"},
        history=a_history(iteration),
    )
    return replace(run, **fields)  # type: ignore[arg-type]


def a_history(n: int) -> Table:
    """Return how a refinement of n iterations may go."""
    done = np.arange(1, n + 1, dtype=np.float64)
    resolution = 12 + 40 * np.exp(-done / 3)
    order = np.minimum(2 + (done - 1) // 5, 5)
    return Table(
        columns={
            "iteration": done,
            "resolution_angstrom": resolution,
            "shell": np.minimum(96.0 / resolution + 5, 12).round(),
            "healpix_order": order,
            "is_local": (order >= 4).astype(np.float64),
            "rotation_step_degrees": 30.0 / 2**order,
            "offset_step_angstrom": np.maximum(4.0 / 1.3 ** (order - 2), 1.0),
            "offset_range_angstrom": np.maximum(20.0 / 1.3 ** (order - 2), 6.0),
            "rotation_accuracy_degrees": np.where(done < 2, np.nan, 2 + 10 / done),
            "offset_accuracy_angstrom": np.where(done < 2, np.nan, 1 + 5 / done),
            "rotation_change_degrees": np.where(done < 2, np.nan, 40 / done),
            "offset_change_angstrom": np.where(done < 2, np.nan, 6 / done),
            "mean_max_probability": 1 - np.exp(-done / 8),
            "log_likelihood": -2e5 + 3e4 * (1 - np.exp(-done / 4)),
            "median_n_significant": (2000 / done**2).round() + 1,
            "lost_mass": np.full(n, 1e-3),
            "offset_sigma_angstrom": 3 + 7 / done,
            "seconds": 3 + 2 * order,
        }
    )


def written(project_folder: Path, run: RefinementRun, *, folder: str = "Refine3D/job007") -> Path:
    """Write a run into a folder of a project; return its data file."""
    relative = lambda path: path.relative_to(project_folder).as_posix()  # noqa: E731 - a name for one use
    return write_refinement_run(project_folder / folder, "run", run, relative=relative)


def some_refinable_particles(project_folder: Path, *, n: int = 40, side: int = 16, symmetry: str = "C1") -> Path:
    """Write ``reference.mrc``, ``particles.mrcs`` and ``particles.star``: the blobs, seen from all sides, in noise."""
    grid, square = ImageGrid.cubic(side, PIXEL_SIZE), ImageGrid.square(side, PIXEL_SIZE)
    volume = blobs(grid, symmetry=symmetry, sigma_angstrom=7.0)
    mrc.write_volume(project_folder / "reference.mrc", volume)
    particles = a_particle_set(n, stack="particles.mrcs")
    band = FourierBand(square)
    transform = slices.prepare(volume.values, grid, 2)
    images = square.irfft(band.scatter(project(transform, particles.tensor("rotation"), band).to(torch.complex64)))
    images = images / images.std() + torch.from_numpy(keyed_random.normal(1, "noise", np.arange(n), size=square.shape))
    with mrc.StackWriter(project_folder / "particles.mrcs", square, n) as writer:
        writer.write(images.numpy().astype(np.float32))
    optics = some_optics(pixel_size_angstrom=PIXEL_SIZE, image_size_pixel=side)
    kept = {name: values for name, values in particles.columns.items() if name not in ("rotation", "origin_angstrom")}
    relion.write_particles(project_folder / "particles.star", type(particles)(columns=kept, optics=optics))
    return project_folder / "particles.star"


def relion_refine_mpi(project_folder: Path, *words: str) -> str:
    """Run RELION's 3D refinement in a project and return what it says; skip the test where it is not installed."""
    if shutil.which("relion_refine_mpi") is None or shutil.which("mpirun") is None:
        pytest.skip("RELION with MPI is not installed: apt-get install relion")
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    result = subprocess.run(
        # waiting processes yield, as there are three of them on what may be one core
        ["mpirun", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-n", "3", "relion_refine_mpi", *words],
        cwd=project_folder,
        env={**os.environ, **allowed},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr
