"""Small trainings of a detector, on micrographs of dark balls."""

import functools

import numpy as np

from halfmap.picking.network.examples import LabelledMicrograph
from halfmap.picking.network.params import DetectorTrainingParams
from halfmap.picking.network.preparation import prepare
from halfmap.picking.network.training import TrainedDetector, train
from support.blob_micrographs import PIXEL_SIZE, micrograph, spread_positions

SHAPE = (300, 340)
DIAMETER_ANGSTROM = 130.0


def labelled(seed, *, share=1.0, n=35):
    """Return a prepared micrograph of which a share of the particles is labelled."""
    positions = spread_positions(SHAPE, n, 28.0, seed=seed)
    image = micrograph(SHAPE, positions, 26.0, contrast=1.5, seed=100 + seed)
    prepared = prepare(image, pixel_size_angstrom=PIXEL_SIZE, diameter_angstrom=DIAMETER_ANGSTROM)
    return LabelledMicrograph.of(f"mic{seed}", prepared, positions[: round(share * len(positions))])


def settings(**changes):
    """Return parameters of a training that takes seconds."""
    given = {"epochs": 2, "crops_per_epoch": 64, "learning_rate": 4e-3, "expected_per_micrograph": 35.0, **changes}
    return DetectorTrainingParams(diameter_angstrom=DIAMETER_ANGSTROM, **given)


@functools.cache
def taught() -> TrainedDetector:
    """Return a detector of dark balls, taught once."""
    return train([labelled(seed) for seed in range(3)], [labelled(seed) for seed in (3, 4)], settings())


def probe() -> np.ndarray:
    """Return a micrograph of 300 x 340 pixels that no training has seen."""
    return micrograph(SHAPE, spread_positions(SHAPE, 35, 28.0, seed=60), 26.0, contrast=1.5, seed=160)
