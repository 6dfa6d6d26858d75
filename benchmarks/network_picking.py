"""How well network picking agrees with curated positions, beside blob picking on the same micrographs.

    python benchmarks/network_picking.py                          the general detector, then one taught on six
    python benchmarks/network_picking.py --model model.safetensors   the general one and this one
    python benchmarks/network_picking.py --expected 80 --labels 0.5  taught on half of the labels
    python benchmarks/network_picking.py --division 3                taught on another six
    python benchmarks/network_picking.py --betagal                   β-galactosidase, taught on each of its pictures

The micrographs are the real apoferritin ones; a pick and a known position match one to one within a quarter of the
diameter, both at least 50 pixels from the edge, as in picking_accuracy.py. A detector taught here sees six of the
thirteen curated micrographs, the first six unless told otherwise; all are tested on the other seven. β-galactosidase:
the three low-passed pictures; a detector taught on one is tested on the other two. Carbon is a corner of the first.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from picking_accuracy import (
    DIAMETERS,
    EDGE_PIXEL,
    PIXEL_SIZE,
    REAL,
    TRUE_DIAMETER,
    Case,
    away_from_the_edge,
    real_cases,
)

from halfmap import keyed_random
from halfmap.io import relion
from halfmap.io.images import read_micrograph
from halfmap.picking import log
from halfmap.picking.agreement import Agreement, agreement, matched
from halfmap.picking.micrograph_picks import MicrographPicks
from halfmap.picking.network import card, detect, training
from halfmap.picking.network.examples import LabelledMicrograph, split
from halfmap.picking.network.params import DetectorTrainingParams, NetworkPickParams
from halfmap.picking.network.preparation import prepare
from halfmap.picking.params import LogPickParams

N_TAUGHT = 6
THRESHOLDS = (-3.0, -1.0, 0.0, 1.0, 3.0)
BETAGAL, BETAGAL_PIXEL_SIZE, BETAGAL_DIAMETER = REAL.parent / "betagal_lowpassed", 1.77, 180.0
BETAGAL_BLOBS = (120.0, 180.0)
BETAGAL_CARBON = ((3280, 4000), (3970, 2816))
"""A line on the picture; carbon lies to its right."""


def taught(
    cases: list[Case], labels: float, params: DetectorTrainingParams, pixel_size: float = PIXEL_SIZE
) -> training.TrainedDetector:
    """Teach a detector on a share of the known positions."""
    micrographs = []
    for index, (name, image, true, _) in enumerate(cases):
        prepared = prepare(image, pixel_size_angstrom=pixel_size, diameter_angstrom=params.diameter_angstrom)
        kept = keyed_random.uniform(1, "labels that are kept", np.arange(len(true)), iteration=index) < labels
        micrographs.append(LabelledMicrograph.of(name, prepared, true[kept]))
    learned, held_out = split(micrographs, held_out_fraction=params.held_out_fraction, seed=params.seed)
    began = time.process_time()
    trained = training.train(learned, held_out, params)
    print(
        f"taught in {time.process_time() - began:.0f} CPU seconds; best epoch {trained.best_epoch}, average precision "
        f"{trained.average_precision.max():.3f}; {trained.calibration}"
    )
    return trained


def show(
    title: str,
    cases: list[Case],
    pick: Callable[[np.ndarray], MicrographPicks],
    thresholds: tuple[float, ...],
    reach: float = TRUE_DIAMETER / 4 / PIXEL_SIZE,
) -> None:
    """Print precision, recall and F1 at some thresholds, and how often picks near even odds are right."""
    began = time.process_time()
    found = [pick(image) for _, image, _, _ in cases]
    seconds = (time.process_time() - began) / len(cases)
    print(f"\n{title}: {seconds:.2f} CPU seconds a micrograph\nthreshold  precision  recall     F1")
    for threshold in thresholds:
        total = Agreement(n_picked=0, n_true=0, n_matched=0)
        for one, (_, image, true, _) in zip(found, cases, strict=True):
            total += agreed(one.position_pixel[one.figure_of_merit >= threshold], true, image, reach)
        print(f"{threshold:9.1f}      {total.precision:.3f}   {total.recall:.3f}  {total.f1:.3f}")
    n_near, n_right = 0, 0
    for one, (_, image, true, _) in zip(found, cases, strict=True):
        near = np.abs(one.figure_of_merit) < 0.5
        near &= (one.position_pixel >= EDGE_PIXEL).all(axis=1)
        near &= (one.position_pixel <= np.array(image.shape[::-1]) - 1 - EDGE_PIXEL).all(axis=1)
        right, _ = matched(one.position_pixel, true, distance=reach)
        n_near += int(near.sum())
        n_right += int(near[right].sum())
    if n_near:
        print(f"{n_near} picks with a figure of merit within 0.5 of 0, of which {n_right} are right")


def agreed(positions: np.ndarray, true: np.ndarray, image: np.ndarray, reach: float) -> Agreement:
    """Count picks and known positions away from the edge."""
    return agreement(away_from_the_edge(positions, image.shape), away_from_the_edge(true, image.shape), distance=reach)


def betagal_cases() -> list[Case]:
    truth = relion.read_particles(BETAGAL / "particles.star")
    names = np.array([str(name) for name in truth["micrograph_name"]])
    return [
        (name, read_micrograph(BETAGAL / name), truth["position_pixel"][names == name], np.zeros((0, 2)))
        for name in sorted(set(names))
    ]


def on_betagal(general: card.Detector, given: argparse.Namespace) -> None:
    """Compare blobs, the general detector, and one taught on each picture in turn, on β-galactosidase."""
    cases = betagal_cases()
    reach = BETAGAL_DIAMETER / 4 / BETAGAL_PIXEL_SIZE
    blobs = LogPickParams(min_diameter_angstrom=BETAGAL_BLOBS[0], max_diameter_angstrom=BETAGAL_BLOBS[1])
    settings = NetworkPickParams(diameter_angstrom=BETAGAL_DIAMETER, threshold=-6.0)

    def with_network(network: detect.DetectorNetwork) -> Callable[[np.ndarray], MicrographPicks]:
        return lambda image: detect.pick(
            image, pixel_size_angstrom=BETAGAL_PIXEL_SIZE, network=network, params=settings
        )

    def with_blobs(image: np.ndarray) -> MicrographPicks:
        return log.pick(image, pixel_size_angstrom=BETAGAL_PIXEL_SIZE, params=blobs)

    for case in cases:
        show(f"{case[0]}: blobs", [case], with_blobs, (-np.inf,), reach)
        show(f"{case[0]}: general detector", [case], with_network(general.network), THRESHOLDS, reach)
    found = with_network(general.network)(cases[0][1])
    (x1, y1), (x2, y2) = BETAGAL_CARBON
    x, y = found.position_pixel[found.figure_of_merit >= 0].T
    print(f"picks on carbon: {((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) > 0).sum()}")
    params = DetectorTrainingParams(
        diameter_angstrom=BETAGAL_DIAMETER,
        expected_per_micrograph=1.2 * max(len(true) for _, _, true, _ in cases),
        loss=given.loss,
        epochs=given.epochs,
    )
    for index, case in enumerate(cases):
        trained = taught([case], given.labels, params, BETAGAL_PIXEL_SIZE)
        others = cases[:index] + cases[index + 1 :]
        show(f"taught on {case[0]}, tested on the others", others, with_network(trained.network), THRESHOLDS, reach)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a detector to test, instead of teaching one")
    parser.add_argument("--general", type=Path, help="a general detector, instead of the one that is shipped")
    parser.add_argument("--expected", type=float, default=160.0, help="particles a micrograph")
    parser.add_argument("--labels", type=float, default=1.0, help="share of the curated positions to teach with")
    parser.add_argument("--division", type=int, default=0, help="which six teach; 0: the first")
    parser.add_argument("--betagal", action="store_true", help="β-galactosidase instead of apoferritin")
    parser.add_argument("--loss", default="ge-binomial")
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    if not REAL.exists():
        parser.error(f"{REAL} is not there")
    torch.set_num_threads(1)
    general = card.from_bytes(given.general.read_bytes(), str(given.general)) if given.general else card.general()
    if given.betagal:
        on_betagal(general, given)
        return
    cases = list(real_cases())
    if given.division:
        cases = [cases[i] for i in keyed_random.permutation(given.division, "micrographs that teach", len(cases))]
    tested = cases[N_TAUGHT:]
    blobs = LogPickParams(min_diameter_angstrom=DIAMETERS[0], max_diameter_angstrom=DIAMETERS[1])
    settings = NetworkPickParams(diameter_angstrom=TRUE_DIAMETER, threshold=-6.0)

    def with_network(detector: card.Detector) -> Callable[[np.ndarray], MicrographPicks]:
        return lambda image: detect.pick(
            image, pixel_size_angstrom=PIXEL_SIZE, network=detector.network, params=settings
        )

    show("blobs", tested, lambda image: log.pick(image, pixel_size_angstrom=PIXEL_SIZE, params=blobs), (-np.inf,))
    show("general detector", tested, with_network(general), THRESHOLDS)
    if given.model is not None:
        model = card.from_bytes(given.model.read_bytes(), str(given.model))
        show(str(given.model), tested, with_network(model), THRESHOLDS)
        return
    params = DetectorTrainingParams(
        diameter_angstrom=TRUE_DIAMETER,
        expected_per_micrograph=given.expected,
        loss=given.loss,
        epochs=given.epochs,
    )
    trained = taught(cases[:N_TAUGHT], given.labels, params)
    show(
        f"taught on {N_TAUGHT} micrographs",
        tested,
        lambda image: detect.pick(image, pixel_size_angstrom=PIXEL_SIZE, network=trained.network, params=settings),
        THRESHOLDS,
    )


if __name__ == "__main__":
    main()
