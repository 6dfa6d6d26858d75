"""How well network picking agrees with curated positions, beside blob picking on the same micrographs.

    python benchmarks/network_picking.py                          the general detector, then one taught on six
    python benchmarks/network_picking.py --model model.safetensors   the general one and this one
    python benchmarks/network_picking.py --expected 80 --labels 0.5  taught on half of the labels

The micrographs are the real apoferritin ones; a pick and a known position match one to one within a quarter of the
diameter, both at least 50 pixels from the edge, as in picking_accuracy.py. A detector taught here sees the first six of
the thirteen curated micrographs; all are tested on the other seven.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from picking_accuracy import DIAMETERS, PIXEL_SIZE, REAL, TRUE_DIAMETER, Case, away_from_the_edge, real_cases

from halfmap import keyed_random
from halfmap.picking import log
from halfmap.picking.agreement import Agreement, agreement
from halfmap.picking.micrograph_picks import MicrographPicks
from halfmap.picking.network import card, detect, training
from halfmap.picking.network.examples import LabelledMicrograph, split
from halfmap.picking.network.params import DetectorTrainingParams, NetworkPickParams
from halfmap.picking.network.preparation import prepare
from halfmap.picking.params import LogPickParams

N_TAUGHT = 6
THRESHOLDS = (-3.0, -1.0, 0.0, 1.0, 3.0)


def taught(cases: list[Case], labels: float, params: DetectorTrainingParams) -> training.TrainedDetector:
    """Teach a detector on a share of the curated positions."""
    micrographs = []
    for index, (name, image, true, _) in enumerate(cases):
        prepared = prepare(image, pixel_size_angstrom=PIXEL_SIZE, diameter_angstrom=TRUE_DIAMETER)
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


def show(title: str, cases: list[Case], pick: Callable[[np.ndarray], MicrographPicks], thresholds: tuple) -> None:
    """Print precision, recall and F1 at some thresholds, and how often picks near even odds are right."""
    began = time.process_time()
    found = [pick(image) for _, image, _, _ in cases]
    seconds = (time.process_time() - began) / len(cases)
    print(f"\n{title}: {seconds:.2f} CPU seconds a micrograph\nthreshold  precision  recall     F1")
    for threshold in thresholds:
        total = Agreement(n_picked=0, n_true=0, n_matched=0)
        for one, (_, image, true, _) in zip(found, cases, strict=True):
            total += agreed(one.position_pixel[one.figure_of_merit >= threshold], true, image)
        print(f"{threshold:9.1f}      {total.precision:.3f}   {total.recall:.3f}  {total.f1:.3f}")
    near = Agreement(n_picked=0, n_true=0, n_matched=0)
    for one, (_, image, true, _) in zip(found, cases, strict=True):
        near += agreed(one.position_pixel[np.abs(one.figure_of_merit) < 0.5], true, image)
    print(f"{near.n_picked} picks with a figure of merit within 0.5 of 0: precision {near.precision:.2f}")


def agreed(positions: np.ndarray, true: np.ndarray, image: np.ndarray) -> Agreement:
    """Count picks and known positions away from the edge."""
    return agreement(
        away_from_the_edge(positions, image.shape),
        away_from_the_edge(true, image.shape),
        distance=TRUE_DIAMETER / 4 / PIXEL_SIZE,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a detector to test, instead of teaching one")
    parser.add_argument("--general", type=Path, help="a general detector, instead of the one that is shipped")
    parser.add_argument("--expected", type=float, default=160.0, help="particles a micrograph")
    parser.add_argument("--labels", type=float, default=1.0, help="share of the curated positions to teach with")
    parser.add_argument("--loss", default="ge-binomial")
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    if not REAL.exists():
        parser.error(f"{REAL} is not there")
    torch.set_num_threads(1)
    cases = list(real_cases())
    tested = cases[N_TAUGHT:]
    blobs = LogPickParams(min_diameter_angstrom=DIAMETERS[0], max_diameter_angstrom=DIAMETERS[1])
    settings = NetworkPickParams(diameter_angstrom=TRUE_DIAMETER, threshold=-6.0)

    def with_network(detector: card.Detector) -> Callable[[np.ndarray], MicrographPicks]:
        return lambda image: detect.pick(
            image, pixel_size_angstrom=PIXEL_SIZE, network=detector.network, params=settings
        )

    show("blobs", tested, lambda image: log.pick(image, pixel_size_angstrom=PIXEL_SIZE, params=blobs), (-np.inf,))
    general = card.from_bytes(given.general.read_bytes(), str(given.general)) if given.general else card.general()
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
