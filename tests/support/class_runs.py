"""2D classifications: made up, and made by Debian's RELION (3.1.3)."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from halfmap import keyed_random
from halfmap.data.class_averages import ClassAverages, ClassRun, NoiseModel
from halfmap.geometry.euler import array_from_euler
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion
from halfmap.io.relion_classes import write_class_run
from support.particle_sets import a_particle_set, some_optics

PIXEL_SIZE = 4.0


def blob(side: int, x: float, y: float, sigma: float = 2.0) -> np.ndarray:
    """Return a Gaussian at (x, y) px from the centre, float32."""
    rows, columns = np.mgrid[:side, :side] - side // 2
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)).astype(np.float32)


def a_class_run(
    *,
    n_classes: int = 5,
    n_particles: int = 60,
    side: int = 16,
    n_optics_groups: int = 1,
    n_micrographs: int = 3,
    iteration: int = 25,
    seed: int = 1,
    averages: ArrayLike | None = None,
    class_number: ArrayLike | None = None,
    **columns: ArrayLike,
) -> ClassRun:
    """Return a run whose numbers are all different; ``columns`` add to or replace those of the table of classes.

    Particle i is in class 1 + i mod n_classes, so that classes differ in size by one at most.
    """
    random = np.random.default_rng(seed)
    n_shells = side // 2 + 1
    numbers = 1 + np.arange(n_particles) % n_classes if class_number is None else np.asarray(class_number)
    images = random.normal(size=(n_classes, side, side)) if averages is None else averages
    psi = random.uniform(-180, 180, n_particles)
    particles = a_particle_set(
        n_particles,
        n_optics_groups=n_optics_groups,
        n_micrographs=n_micrographs,
        class_number=numbers,
        rotation=array_from_euler(np.zeros(n_particles), np.zeros(n_particles), psi),
        norm_correction=random.uniform(0.6, 1.4, n_particles),
        max_probability=random.uniform(0.1, 1, n_particles),
        log_likelihood=random.normal(-2000, 30, n_particles),
        n_significant=random.integers(1, 99, n_particles),
        theirs=np.array([f"text{i}" for i in range(n_particles)], dtype=object),
    )
    optics = some_optics(n_optics_groups, pixel_size_angstrom=PIXEL_SIZE, image_size_pixel=side)
    names = particles["micrograph_name"]
    groups = np.unique(names.astype(str)).astype(object)[::-1]
    particles = type(particles)(columns={**particles.columns, "group_name": names}, optics=optics)
    frc = np.exp(-0.3 * np.arange(n_shells))[None] * random.uniform(0.5, 1, (n_classes, 1))
    frc[-1] = np.nan
    resolution = 64.0 / np.arange(1, n_classes + 1)
    resolution[-1] = np.inf
    table = {
        "average": images,
        "unmasked_average": np.asarray(images) + 1,
        "n_particles": np.bincount(numbers, minlength=n_classes + 1)[1:],
        "fraction": random.dirichlet(np.ones(n_classes)),
        "score": np.append(np.linspace(0.9, 0.1, n_classes - 1), np.nan),
        "frc_resolution_angstrom": np.append(np.linspace(20, 60, n_classes - 1), np.nan),
        "ssnr_resolution_angstrom": resolution,
        "rotation_accuracy_degrees": np.append(random.uniform(2, 30, n_classes - 1), np.nan),
        "offset_accuracy_angstrom": random.uniform(2, 8, n_classes),
        "prior_offset_angstrom": random.normal(size=(n_classes, 2)),
        "fourier_completeness": random.uniform(0.5, 1, n_classes),
        "frc": frc,
        "ssnr": random.uniform(0, 100, (n_classes, n_shells)),
        "prior_variance": random.uniform(1e-9, 1e-3, (n_classes, n_shells)),
        "error_variance": random.uniform(1e-9, 1e-3, (n_classes, n_shells)),
        "completeness": random.uniform(0, 1, (n_classes, n_shells)),
        **columns,
    }
    return ClassRun(
        averages=ClassAverages(columns=table, grid=ImageGrid.square(side, PIXEL_SIZE)),
        particles=particles,
        noise=NoiseModel(
            optics_group=optics.numbers,
            noise_variance=random.uniform(1e-4, 1e-3, (n_optics_groups, n_shells)),
            group_name=groups,
            group_scale=random.uniform(0.8, 1.2, len(groups)),
        ),
        mask_diameter_angstrom=45.0,
        iteration=iteration,
        n_iterations=iteration,
        algorithm="vdam",
        regularisation=2.5,
        psi_step_degrees=6.0,
        offset_range_angstrom=12.0,
        offset_step_angstrom=4.0,
        offset_sigma_angstrom=5.5,
        current_size_pixel=side - 2,
        mean_norm=0.7,
        log_likelihood=-123456.5,
        mean_max_probability=0.4,
        seed=3,
        perturbation=-0.125,
        perturbation_factor=0.25,
        settings={"rlnDoIgnoreCtfUntilFirstPeak": "1"},
    )


def written(project: Path, run: ClassRun, *, folder: str = "Class2D/job007") -> Path:
    """Write a run into a folder of a project; return its optimiser file."""
    return write_class_run(project / folder, "run", run, relative=lambda path: path.relative_to(project).as_posix())


def some_classifiable_particles(project: Path, *, n: int = 60, side: int = 32) -> Path:
    """Write ``particles.star`` and its stack into a project: a dumbbell and a ring, turned, shifted, in noise."""
    (project / ".halfmap").mkdir(parents=True, exist_ok=True)
    uids = np.arange(n)
    angle = 2 * np.pi * keyed_random.uniform(1, "angles", uids)
    images = keyed_random.normal(1, "noise", uids, size=(side, side))
    for i in uids:
        x, y = 5 * np.cos(angle[i]), 5 * np.sin(angle[i])
        dumbbell = blob(side, x, y) + blob(side, -x, -y)
        images[i] += 2 * (dumbbell if i % 2 else 2 * blob(side, 0, 0, 4.0) - 2 * blob(side, 0, 0))
    with mrc.StackWriter(project / "particles.mrcs", ImageGrid.square(side, PIXEL_SIZE), n) as writer:
        writer.write(images.astype(np.float32))
    made = a_particle_set(n, stack="particles.mrcs", theirs=np.array([f"text{i}" for i in uids], dtype=object))
    optics = some_optics(pixel_size_angstrom=PIXEL_SIZE, image_size_pixel=side)
    kept = {
        name: values
        for name, values in made.columns.items()
        if name not in ("rotation", "origin_angstrom", "class_number", "random_subset")
    }
    relion.write_particles(project / "particles.star", type(made)(columns=kept, optics=optics))
    return project / "particles.star"


def relion_refine(project: Path, *words: str) -> str:
    """Run RELION's program in a project and return what it says; skip the test where it is not installed."""
    if shutil.which("relion_refine") is None:
        pytest.skip("RELION is not installed: apt-get install relion")
    result = subprocess.run(["relion_refine", *words], cwd=project, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def classified_by_relion(project: Path, *, folder: str = "Class2D/job001", n_classes: int = 3) -> Path:
    """Write particles, classify them by RELION in three iterations, and return the folder."""
    particles = some_classifiable_particles(project)
    (project / folder).mkdir(parents=True)
    relion_refine(
        project,
        *("--i", particles.name, "--o", f"{folder}/run", "--iter", "3", "--K", str(n_classes), "--j", "1"),
        *("--particle_diameter", "90", "--ctf", "--zero_mask", "--flatten_solvent", "--norm", "--scale"),
        *("--oversampling", "1", "--psi_step", "24", "--offset_range", "3", "--offset_step", "2", "--pad", "2"),
        *("--tau2_fudge", "2", "--random_seed", "1", "--center_classes"),
    )
    return project / folder
