"""How well blob picking at its defaults agrees with known positions.

    python benchmarks/picking_accuracy.py                       the real apoferritin micrographs
    python benchmarks/picking_accuracy.py FOLDER --diameter 160   a job of `halfmap simulate micrographs`

A pick and a known position match one to one within a quarter of the true diameter; both are left out nearer than 50
pixels to the edge. In a simulated job, broken particles and members of aggregates count as wrong; with
`--spare-aggregates` picks on members of aggregates, which are whole particles that touch others, count neither way.
"""

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch

from halfmap.io import relion
from halfmap.io.images import read_micrograph
from halfmap.io.relion_picks import read_coordinates
from halfmap.picking import sphere_score
from halfmap.picking.agreement import Agreement, agreement, matched
from halfmap.picking.log import pick
from halfmap.picking.params import LogPickParams

REAL = Path(__file__).parents[2] / "shared" / "data" / "apoferritin"
PIXEL_SIZE, DIAMETERS, TRUE_DIAMETER = 1.5, (120.0, 140.0), 130.0
EDGE_PIXEL = 50

Case = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def real_cases() -> Iterator[Case]:
    for path in sorted((REAL / "coords").glob("*.star")):
        image = read_micrograph(REAL / "micrographs" / f"{path.stem}.mrc")
        yield path.stem, image, read_coordinates(path, path.stem).position_pixel, np.zeros((0, 2))


def simulated_cases(folder: Path, *, spare_aggregates: bool) -> Iterator[Case]:
    truth = relion.read_particles(folder / "ground_truth.star")
    is_particle = np.array([str(value) == "0" for value in truth["halfmapIsJunk"]])
    is_spared = (truth["halfmapKind"] == "aggregate") & spare_aggregates
    names = np.array([Path(str(name)).name for name in truth["micrograph_name"]])
    for path in sorted((folder / "Micrographs").glob("*.mrc")):
        here, position = names == path.name, truth["position_pixel"]
        yield path.name, read_micrograph(path), position[is_particle & here], position[is_spared & here]


def away_from_the_edge(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    limit = np.array(shape[1::-1]) - 1 - EDGE_PIXEL
    return positions[((positions >= EDGE_PIXEL) & (positions <= limit)).all(axis=1)]


def leave_one_out(cases: list[Case]) -> None:
    """Choose ring and distance, the two numbers compared on these micrographs, on all micrographs but one each time."""
    settings = list(product((1.1, 1.2, 1.3, 1.4), (0.6, 0.7, 0.8)))
    counts: dict[tuple[float, float], list[Agreement]] = {}
    mean = sum(DIAMETERS) / 2
    used = sphere_score.RING
    for ring, distance in settings:
        sphere_score.RING = ring
        params = LogPickParams(
            min_diameter_angstrom=DIAMETERS[0],
            max_diameter_angstrom=DIAMETERS[1],
            min_distance_angstrom=distance * mean,
        )
        counts[ring, distance] = [
            agreement(
                away_from_the_edge(
                    pick(image, pixel_size_angstrom=PIXEL_SIZE, params=params).position_pixel, image.shape
                ),
                away_from_the_edge(true, image.shape),
                distance=TRUE_DIAMETER / 4 / PIXEL_SIZE,
            )
            for _, image, true, _ in cases
        ]
    sphere_score.RING = used
    nothing = Agreement(n_picked=0, n_true=0, n_matched=0)
    total = nothing
    chosen = []
    for i in range(len(cases)):
        best = max(settings, key=lambda s: sum((c for j, c in enumerate(counts[s]) if j != i), nothing).f1)
        chosen.append(best)
        total += counts[best][i]
    print(f"\nleave one out: precision {total.precision:.3f} recall {total.recall:.3f} F1 {total.f1:.3f}")
    print(f"chosen (ring, distance): {sorted(set(chosen))}")
    everything = {s: sum(counts[s], nothing).f1 for s in settings}
    print(f"F1 of all settings on all micrographs: {min(everything.values()):.3f} to {max(everything.values()):.3f}")


def compare(cases: list[Case], pixel_size: float, shortest: float, longest: float, true_diameter: float) -> None:
    print(f"\ndiameters {shortest:.0f} to {longest:.0f} Å\n{'micrograph':28s} precision  recall     F1")
    total = Agreement(n_picked=0, n_true=0, n_matched=0)
    params = LogPickParams(min_diameter_angstrom=shortest, max_diameter_angstrom=longest)
    reach = true_diameter / 4 / pixel_size
    for name, image, true, spared in cases:
        found = away_from_the_edge(
            pick(image, pixel_size_angstrom=pixel_size, params=params).position_pixel, image.shape
        )
        right, _ = matched(found, true, distance=reach)
        rest = np.setdiff1d(np.arange(len(found)), right)
        neither, _ = matched(found[rest], spared, distance=reach)
        found = np.delete(found, rest[neither], axis=0)
        one = agreement(found, away_from_the_edge(true, image.shape), distance=reach)
        total = total + one
        print(f"{name:28s}     {one.precision:.3f}   {one.recall:.3f}  {one.f1:.3f}")
    print(f"{'all':28s}     {total.precision:.3f}   {total.recall:.3f}  {total.f1:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--diameter", type=float, help="true diameter of the simulated particles, in Å")
    parser.add_argument("--pixel-size", type=float, default=1.5, help="of the simulated micrographs, in Å")
    parser.add_argument("--spare-aggregates", action="store_true", help="see above")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.folder is not None:
        if given.diameter is None:
            parser.error("a simulated job needs --diameter")
        cases = list(simulated_cases(given.folder, spare_aggregates=given.spare_aggregates))
        compare(cases, given.pixel_size, 0.9 * given.diameter, 1.1 * given.diameter, given.diameter)
    elif REAL.exists():
        cases = list(real_cases())
        for factor in (1.0, 0.85, 1.15):
            compare(cases, PIXEL_SIZE, DIAMETERS[0] * factor, DIAMETERS[1] * factor, TRUE_DIAMETER)
        leave_one_out(cases)
    else:
        parser.error(f"{REAL} is not there; give the folder of a simulated job")


if __name__ == "__main__":
    main()
