"""How well network picking and blob picking agree with the truth of simulated micrographs.

    python benchmarks/network_picking_simulated.py                      structures and dirt, then size, density, defocus
    python benchmarks/network_picking_simulated.py --taught             a detector taught for each structure, too
    python benchmarks/network_picking_simulated.py --tables structures --general model.safetensors

Micrographs of 16 by 16 diameters, pixels of a fiftieth of the diameter, all the dirt of `halfmap simulate micrographs`.
None of these specimens has taught the general detector. A pick and a particle match one to one within a quarter of the
diameter, both at least a diameter from the edge; picks on members of aggregates, whole particles that touch others,
count neither way. Blobs are looked for within a tenth of the diameter, between three fifths and nine tenths of it, and
between the shortest and the longest view; the best of the three counts, chosen by the truth.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from halfmap.data.atomic_models import AtomicModel
from halfmap.picking import log
from halfmap.picking.agreement import Agreement, agreement, matched
from halfmap.picking.micrograph_picks import MicrographPicks
from halfmap.picking.network import card, detect, training
from halfmap.picking.network.examples import LabelledMicrograph, split
from halfmap.picking.network.params import DetectorTrainingParams, NetworkPickParams
from halfmap.picking.network.preparation import prepare
from halfmap.picking.params import LogPickParams
from halfmap.simulation.layout import AGGREGATE, PARTICLE, lay_out
from halfmap.simulation.micrographs import References, micrograph
from halfmap.simulation.params import MicrographSimulationParams
from halfmap.simulation.references import reference_of_atoms
from halfmap.simulation.specimens import specimen

SIDE = 800
PIXELS_ACROSS = 50
BLOB_RANGES = ((0.9, 1.1), (0.6, 0.9), (0.4, 1.0))
TAUGHT_SEED = 9_000


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One row of a table: a specimen, and what is unusual about its micrographs."""

    title: str
    name: str
    changes: tuple[tuple[str, float], ...] = ()
    covered: float = 0.2


TABLES: dict[str, tuple[Condition, ...]] = {
    "structures": (
        Condition(title="rods", name="elongated-c1-160"),
        Condition(title="rods of symmetry D2", name="betagal-like-d2-180"),
        Condition(title="barrels", name="groel-like-d7-190"),
        Condition(title="balls", name="compact-c1-100"),
        Condition(title="hollow, a fifth overlap", name="ferritin-like-o-130", changes=(("overlap_fraction", 0.2),)),
        Condition(title="D2 rods, a fifth overlap", name="betagal-like-d2-180", changes=(("overlap_fraction", 0.2),)),
        Condition(
            title="balls, much junk and ice",
            name="compact-d2-120",
            changes=(("junk_per_particle", 0.3), ("ice_blobs_per_micrometre2", 80.0)),
        ),
        Condition(title="balls, carbon on each", name="compact-o-160", changes=(("carbon_fraction", 1.0),)),
    ),
    "size": tuple(
        Condition(title=f"{diameter} Å", name=name)
        for diameter, name in (
            (80, "compact-c1-80"),
            (120, "compact-d2-120"),
            (160, "compact-o-160"),
            (250, "ribosome-like-c1-250"),
            (290, "capsid-like-i-290"),
            (400, "capsid-like-i-400"),
        )
    ),
    "density": tuple(
        Condition(title=f"{100 * covered:.0f} % covered", name="compact-d2-120", covered=covered)
        for covered in (0.02, 0.1, 0.3, 0.45)
    ),
    "defocus": tuple(
        Condition(
            title=f"{defocus / 1e4:g} µm",
            name="compact-d2-120",
            changes=(("min_defocus_angstrom", defocus), ("max_defocus_angstrom", defocus + 500)),
        )
        for defocus in (4_000.0, 8_000.0, 15_000.0, 25_000.0, 35_000.0)
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A micrograph and its truth, positions in pixels."""

    image: np.ndarray
    true: np.ndarray
    spared: np.ndarray
    pixel_size: float
    diameter: float


@cache
def model_of(name: str) -> AtomicModel:
    return specimen(name)


def cases(condition: Condition, seed: int, number: int) -> Iterator[Case]:
    """Simulate micrographs of a condition."""
    model = model_of(condition.name)
    diameter = model.centred().diameter_angstrom
    params = MicrographSimulationParams(
        **{
            "seed": seed,
            "number": number,
            "size_pixel": (SIDE, SIDE),
            "pixel_size_angstrom": diameter / PIXELS_ACROSS,
            "ice_thickness_angstrom": max(350.0, 1.2 * diameter),
            "particles_per_micrograph": round(condition.covered * (SIDE / PIXELS_ACROSS) ** 2 / (np.pi / 4)),
            **dict(condition.changes),
        }
    )
    whole = reference_of_atoms(
        model,
        pixel_size_angstrom=params.pixel_size_angstrom,
        b_factor_angstrom2=params.b_factor_angstrom2,
        name=condition.name,
    )
    references = References(whole=[whole], broken=[whole.broken()])
    for index in range(number):
        layout = lay_out(index, params, (diameter,))
        inside = layout.is_inside(params.size_pixel)
        yield Case(
            image=micrograph(layout, references, params).counts,
            true=layout.position_pixel[(layout.kind == PARTICLE) & inside],
            spared=layout.position_pixel[layout.kind == AGGREGATE],
            pixel_size=params.pixel_size_angstrom,
            diameter=diameter,
        )


def agreed(found: np.ndarray, case: Case) -> Agreement:
    """Count picks and particles away from the edge, picks on members of aggregates left out."""
    reach = PIXELS_ACROSS / 4
    found, true = (
        one[((one >= PIXELS_ACROSS) & (one <= SIDE - 1 - PIXELS_ACROSS)).all(axis=1)] for one in (found, case.true)
    )
    right, _ = matched(found, true, distance=reach)
    rest = np.setdiff1d(np.arange(len(found)), right)
    neither, _ = matched(found[rest], case.spared, distance=reach)
    return agreement(np.delete(found, rest[neither], axis=0), true, distance=reach)


def total(some: list[Case], pick: Callable[[Case], MicrographPicks]) -> Agreement:
    """Add up the agreement of picks, figure of merit 0 or more, with the truth."""
    return sum((agreed(pick(case).position_pixel, case) for case in some), Agreement(n_picked=0, n_true=0, n_matched=0))


def with_network(network: detect.DetectorNetwork) -> Callable[[Case], MicrographPicks]:
    return lambda case: detect.pick(
        case.image,
        pixel_size_angstrom=case.pixel_size,
        network=network,
        params=NetworkPickParams(diameter_angstrom=case.diameter, threshold=0.0),
    )


def with_blobs(shortest: float, longest: float) -> Callable[[Case], MicrographPicks]:
    return lambda case: log.pick(
        case.image,
        pixel_size_angstrom=case.pixel_size,
        params=LogPickParams(
            min_diameter_angstrom=shortest * case.diameter,
            max_diameter_angstrom=longest * case.diameter,
            max_resolution_angstrom=min(20.0, shortest * case.diameter / 1.5),
        ),
    )


def taught(condition: Condition, number: int) -> detect.DetectorNetwork:
    """Teach a detector on other micrographs of the same condition, with all their particles."""
    micrographs = []
    for index, case in enumerate(cases(condition, TAUGHT_SEED, number)):
        prepared = prepare(case.image, pixel_size_angstrom=case.pixel_size, diameter_angstrom=case.diameter)
        micrographs.append(LabelledMicrograph.of(str(index), prepared, case.true))
    n_labels = sum(len(one.position_pixel) for one in micrographs)
    params = DetectorTrainingParams(
        diameter_angstrom=float(PIXELS_ACROSS), expected_per_micrograph=1.2 * n_labels / len(micrographs)
    )
    learned, held_out = split(micrographs, held_out_fraction=params.held_out_fraction, seed=params.seed)
    return training.train(learned, held_out, params).network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=tuple(TABLES), default=tuple(TABLES))
    parser.add_argument("--general", type=Path, help="a general detector, instead of the one that is shipped")
    parser.add_argument("--number", type=int, default=3, help="micrographs of each condition")
    parser.add_argument("--taught", action="store_true", help="teach a detector for each structure, on four others")
    given = parser.parse_args()
    torch.set_num_threads(1)
    general = card.from_bytes(given.general.read_bytes(), str(given.general)) if given.general else card.general()
    for table in given.tables:
        print(f"\n{table:28s} sphere F1   general: precision  recall     F1   taught F1")
        for number, condition in enumerate(TABLES[table]):
            some = list(cases(condition, 100 * (1 + number), given.number))
            sphere = max(total(some, with_blobs(*limits)).f1 for limits in BLOB_RANGES)
            network = total(some, with_network(general.network))
            line = f"{condition.title:28s}     {sphere:.3f}             {network.precision:.3f}   {network.recall:.3f}"
            line += f"  {network.f1:.3f}"
            if given.taught and table == "structures":
                line += f"       {total(some, with_network(taught(condition, 4))).f1:.3f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
