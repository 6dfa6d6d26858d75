"""What populations from files must not do: share what their truths do not, and be surer than they are right.

    python benchmarks/multiparticle_checks.py two-truths [--runs 10]
    python benchmarks/multiparticle_checks.py error-bars [--seeds 1 2 3]

``two-truths``: half-sets of two structures, refined together with fine grids: what they share beyond the join, before
and after; the same where each half-set is refined without the other, so that they share no geometry, and at the true
geometry. Beside it what the truths share, and the product of that and of each half's FSC with its own truth.
``error-bars``: errors over error bars of each group of parameters, all others true, in a crowded field and a wide one.
"""

import argparse
import operator
import os
import sys
import tempfile
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from population_projects import Project, fsc, new_project

from halfmap.data.half_sets import HALVES
from halfmap.data.volumes import Volume
from halfmap.geometry.rotations import rotation_vector_from_matrix
from halfmap.io.species_particles import read_species_particles_of_m, write_species_particles_of_m
from halfmap.jobs.population_files import open_population
from halfmap.jobs.population_refine_work import references_of
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.reconstruction import SeriesSums, accumulate, combine
from halfmap.multiparticle.reconstruction_params import ReconstructionParams
from halfmap.multiparticle.refine import SeriesProblem, SpeciesProblem, refine_series
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.species import fitted
from support.simulated_series import SimulatedFiles

TRUTHS = ("compact-c1-100", "compact-c1-101")
OF_TRUTHS = (
    "--pixel-size 4 --size 160,160 --tilt-step 12 --snr 0.3 --particles-per-series 12,12 --image-warp-nodes 2,2 "
    "--image-warp 3 --margin 50"
)
BANDS = ((40.0, 20.0), (20.0, 12.0), (12.0, 8.5))
FINEST = {"image_warp": "5x5", "volume_warp": "3x3x2x4"} | dict.fromkeys(
    ("stage_angles", "positions", "angles", "defocus"), True
)
CTF_RESOLUTION_ANGSTROM = 12.0
BARS_SPECIMEN = "compact-c1-100"
OF_BARS = "--pixel-size 4 --tilt-step 8 --snr 0.1 --particles-per-series 20 --reference-resolution 6 --margin 60"
BARS = {
    "poses": ("--position-error 3 --angle-error 3", {"positions": True, "angles": True}),
    "image warp": ("--image-warp 3 --image-warp-nodes 2,2", {"image_warp": "2x2"}),
    "defocus": ("--defocus-error 1000", {"defocus": True}),
}


def two_truths(options: argparse.Namespace, folder: Path) -> None:
    """Refine half-sets of two structures together, and see what they come to share."""
    cases = ("before", "together", "apart", "true geometry")
    print("| run | band | truths | " + " | ".join(f"{case}, product" for case in cases) + " |\n" + "|---" * 7 + "|")
    chosen = " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in FINEST.items()
    )
    shared = []
    for run in range(options.first, options.first + options.runs):
        specimens = " ".join(f"--specimen {one}" for one in TRUTHS)
        project = new_project(folder / f"run{run}", f"tilt-series {specimens} {OF_TRUTHS} --number 2 --seed {run}")
        sim = project.folder / "sim"
        tables = [read_species_particles_of_m(sim / f"species/{one}_particles.star") for one in TRUTHS]
        write_species_particles_of_m(project.folder / "both.star", of_two_halves(*tables))
        halves = [sim / f"species/{one}_half{half}.mrc" for half, one in enumerate(TRUTHS, 1)]
        project.run(
            f"population add-species m --name one --diameter 100 --half1 {halves[0]} --half2 {halves[1]} "
            "--particles both.star --workers 1"
        )
        project.refine("")
        maps = [project.maps("one"), *apart_and_true(project)]
        project.refine(f"{chosen} --ctf-resolution {CTF_RESOLUTION_ANGSTROM}")
        maps.insert(1, project.maps("one"))
        grid = maps[0][0].grid
        true = [fitted(SimulatedFiles(sim).true_map(one), grid) for one in TRUTHS]
        curves = [fsc(*true)]
        for halves in maps:
            # what two halves share where each knows nothing but its own truth
            product = fsc(*true) * torch.stack([fsc(*pair) for pair in zip(halves, true, strict=True)]).prod(0)
            curves += [fsc(*halves), product]
        of_shell = grid.side * grid.pixel_size_angstrom / np.maximum(1, np.arange(len(curves[0])))
        bands = [torch.from_numpy((of_shell < coarse) & (of_shell >= fine)) for coarse, fine in BANDS]
        shared.append([[float(curve[band].mean()) for curve in curves] for band in bands])
        for (coarse, fine), (truths, *means) in zip(BANDS, shared[-1], strict=True):
            pairs = " | ".join(
                f"{got:.3f}, {product:.3f}" for got, product in zip(means[::2], means[1::2], strict=True)
            )
            print(f"| {run} | {coarse:g} to {fine:g} Å | {truths:.3f} | {pairs} |", flush=True)
    for band, table in zip(BANDS, np.array(shared).transpose(1, 2, 0), strict=True):
        print(f"{band}: truths {table[0].mean():.3f}; together less apart {mean_and_error(table[3] - table[5])}")
        for case, got, product in zip(cases, table[1::2], table[2::2], strict=True):
            print(f"  {case}: {got.mean():.3f}, above the product {mean_and_error(got - product)}")


def apart_and_true(project: Project) -> list[tuple[Volume, Volume]]:
    """Return half-maps of half-sets that are refined each without the other, and those of the true geometry."""
    files = SimulatedFiles(project.folder / "sim")
    opened = open_population(project.folder / "m").find_species("one")
    species, references, start = opened.species, references_of(opened), opened.particles()
    true = of_two_halves(*[files.particles(one, true=True) for one in TRUTHS])
    apart, ideal = list[SeriesSums](), list[SeriesSums]()
    for item in files.items:
        images, series, true_series = files.images(item), files.series(item), files.series(item, true=True)
        for half in HALVES:
            mine, its_truth = (
                one.take((one.random_subset == half) & (one.source_name.astype(str) == f"{item}.tomostar"))
                for one in (start, true)
            )
            problem = SpeciesProblem(
                name="one", particles=mine, references=references, diameter_angstrom=species.diameter_angstrom
            )
            result = refine_series(
                SeriesProblem(series=series, images=images, species=(problem,)),
                ParameterChoice(**FINEST),
                schedule=Schedule(ctf_resolution_angstrom=CTF_RESOLUTION_ANGSTROM),
            )
            poses = mine.with_poses(result.species[0].position_angstrom, result.species[0].rotation)
            apart.append(accumulate(result.series, images, poses, species, ReconstructionParams()))
            ideal.append(accumulate(true_series, images, its_truth, species, ReconstructionParams()))
    maps = [combine(reduce(operator.add, sums), species, ReconstructionParams()) for sums in (apart, ideal)]
    return [(one.half1, one.half2) for one in maps]


def mean_and_error(values: np.ndarray) -> str:
    """Return the mean over runs and its error, in words."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():+.3f} ± {error:.3f}"


def of_two_halves(first, second):
    """Return the particles of two species as the two half-sets of one."""
    found = [replace(one, random_subset=np.full(len(one), half)) for half, one in enumerate((first, second), 1)]
    fields = ("position_angstrom", "rotation", "random_subset", "source_name", "source_hash", "uid")
    joined = {name: np.concatenate([getattr(one, name) for one in found]) for name in fields}
    return replace(found[0], **joined)


def error_bars(options: argparse.Namespace, folder: Path) -> None:
    """Refine one group of parameters, all others true, and compare its errors with their error bars."""
    print("| field | group | errors over error bars, rms |\n|---|---|---|")
    for field in ("--size 200,200", "--size 400,400"):
        for group, (errors, choice) in BARS.items():
            found = list[np.ndarray]()
            for seed in options.seeds:
                place = folder / f"{group} {field.split(',')[-1]} {seed}".replace(" ", "_")
                (place / ".halfmap").mkdir(parents=True)
                none = "--position-error 0 --angle-error 0 --defocus-error 0 --image-warp 0"
                specimen = f"--specimen {BARS_SPECIMEN} {field} --seed {seed}"
                Project(place).run(f"simulate tilt-series {specimen} {OF_BARS} {none} {errors} --workers 1 --out sim")
                found.append(_over_bars(SimulatedFiles(place / "sim"), choice))
            rms = float(np.sqrt(np.mean(np.square(np.concatenate(found)))))
            print(f"| {field.split()[1]} px | {group} | {rms:.2f} |", flush=True)


def _over_bars(files: SimulatedFiles, choice: dict) -> np.ndarray:
    problem = files.problem("TS_1", {BARS_SPECIMEN: 9.0})
    result = refine_series(problem, ParameterChoice(**choice), schedule=Schedule(ctf_resolution_angstrom=20.0))
    one, true = result.species[0], files.particles(BARS_SPECIMEN, "TS_1", true=True)
    if "positions" in choice:
        turn = torch.from_numpy(one.rotation[:, 0] @ true.rotation[:, 0].transpose(0, 2, 1))
        errors = [one.position_angstrom[:, 0] - true.position_angstrom[:, 0], rotation_vector_from_matrix(turn).numpy()]
        return (np.concatenate(errors, axis=1) / one.deviation).ravel()
    fields = ("defocus_angstrom",) if "defocus" in choice else ("movement_x_angstrom", "movement_y_angstrom")
    now, truth = result.series, files.series("TS_1", true=True)
    errors = [(getattr(now, name).values - getattr(truth, name).values).flatten() for name in fields]
    return torch.cat(errors).numpy() / result.deviation


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["two-truths", "error-bars"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--first", type=int, default=1, help="number of the first run")
    parser.add_argument("--folder", type=Path, help="where files are kept; a temporary one where left out")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder = (options.folder or Path(tempfile.mkdtemp())).resolve()
    {"two-truths": two_truths, "error-bars": error_bars}[options.what](options, folder)


if __name__ == "__main__":
    main()
