"""Teach the detector that the package ships, on simulated micrographs of many structures.

    python benchmarks/train_general_picker.py                 simulate, teach, write general.safetensors here
    python benchmarks/train_general_picker.py --out FILE --epochs 9

The micrographs have pixels of a twentieth of the diameter or so, all the dirt of `halfmap simulate micrographs`, and
defocus, density, contrast, dose and ice drawn widely; half are low-passed, some of these are JPEGs, some are empty,
and a third as many are noise of any colour. All positions are known, so unlabelled means background.
"""

import argparse
import io
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from halfmap import keyed_random
from halfmap.picking.network import card, training
from halfmap.picking.network.examples import LabelledMicrograph
from halfmap.picking.network.params import DetectorTrainingParams
from halfmap.picking.network.preparation import DIAMETER_PIXEL, prepare
from halfmap.picking.network.specimens import CALIBRATING_SPECIMENS, TRAINING_SPECIMENS, check_training_specimen
from halfmap.simulation.layout import AGGREGATE, PARTICLE, lay_out
from halfmap.simulation.micrographs import References, micrograph
from halfmap.simulation.params import MicrographSimulationParams
from halfmap.simulation.references import reference_of_atoms
from halfmap.simulation.specimens import specimen

SIDE = 512
SEED = 5
EMPTY = 8
"""Every so many micrographs there are no particles."""

NOISE = 0.35
"""Pictures of noise for each micrograph of a specimen."""


def conditions(number: int, pixel_size: float, diameter: float) -> MicrographSimulationParams:
    """Draw how one micrograph is taken."""
    u = keyed_random.uniform(SEED, "general picker conditions", number, size=12)
    area = (SIDE * pixel_size) ** 2 / (np.pi / 4 * diameter**2)
    least_defocus = 5_000 + 33_000 * float(u[0])
    return MicrographSimulationParams(
        seed=SEED + number,
        number=1,
        size_pixel=(SIDE, SIDE),
        pixel_size_angstrom=pixel_size,
        voltage_kv=300.0 if u[1] < 0.7 else 200.0,
        amplitude_contrast=0.07 + 0.05 * float(u[2]),
        min_defocus_angstrom=least_defocus,
        max_defocus_angstrom=least_defocus + 500,
        dose_e_per_angstrom2=15 + 45 * float(u[3]),
        ice_thickness_angstrom=200 + 500 * float(u[4]) + 0.8 * diameter,
        b_factor_angstrom2=60 + 120 * float(u[5]),
        particles_per_micrograph=0 if number % EMPTY == EMPTY - 1 else max(1, round(area * 0.04 * 12 ** float(u[6]))),
        overlap_fraction=0.4 * float(u[7]),
        junk_per_particle=0.25 * float(u[8]),
        preferred_orientation=-3 + 6 * float(u[9]),
        ice_blobs_per_micrometre2=60 * float(u[10]) ** 2,
        carbon_fraction=0.4,
    )


def examples_of(name: str, first: int, n_micrographs: int) -> list[LabelledMicrograph]:
    """Simulate micrographs of one specimen and prepare them, the diameter a little off as users have it."""
    check_training_specimen(name)
    model = specimen(name)
    diameter = model.centred().diameter_angstrom
    made = []
    for number in range(first, first + n_micrographs):
        u = keyed_random.uniform(SEED, "general picker sampling", number, size=5)
        pixel_size = diameter / (20 + 12 * float(u[0]))
        params = conditions(number, pixel_size, diameter)
        whole = reference_of_atoms(
            model, pixel_size_angstrom=pixel_size, b_factor_angstrom2=params.b_factor_angstrom2, name=name
        )
        layout = lay_out(number, params, (diameter,))
        image = micrograph(layout, References(whole=[whole], broken=[whole.broken()]), params).counts
        if u[2] < 0.5:  # a low-passed micrograph, as some programs leave it: up to two pixels of the network
            image = gaussian_filter(image, (0.3 + 1.9 * float(u[3])) * diameter / DIAMETER_PIXEL / pixel_size)
            image = jpeg(image, 50 + round(90 * float(u[4]))) if u[4] < 0.5 else image
        given = diameter * float(np.exp(0.3 * (u[1] - 0.5)))
        prepared = prepare(image, pixel_size_angstrom=pixel_size, diameter_angstrom=given)
        found = layout.position_pixel[(layout.kind == PARTICLE) & layout.is_inside(params.size_pixel)]
        labelled = LabelledMicrograph.of(name, prepared, found)
        crowd = layout.position_pixel[layout.kind == AGGREGATE] / prepared.work.step_pixel
        apart = ~near(crowd, labelled.usable.shape)
        made.append(replace(labelled, usable=labelled.usable & apart, pickable=labelled.pickable & apart))
    return made


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return a picture as it comes back from a JPEG of its grey values."""
    low, high = np.percentile(image, (0.1, 99.9))
    grey = np.clip(255 * (image - low) / (high - low), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), dtype=np.float32)


def noise(first: int, number: int) -> list[LabelledMicrograph]:
    """Make pictures of noise alone: a third white, the others low-passed, or stronger at low frequencies, or both."""
    made = []
    for index in range(first, first + number):
        u = keyed_random.uniform(SEED, "general picker noise", index, size=4)
        step = 1.25 + 0.75 * float(u[0])  # pixels in one of the network
        white = keyed_random.normal(SEED, "general picker white noise", index, size=(SIDE, SIDE))
        squared = np.fft.fftfreq(SIDE)[:, None] ** 2 + np.fft.rfftfreq(SIDE) ** 2
        width = 2.4 * step * float(u[1]) if index % 3 else 0.0
        rise = 1.5 * float(u[2]) * (u[3] < 0.5) if index % 3 else 0.0
        response = (squared + SIDE**-2.0) ** (-rise / 2) * np.exp(-2 * (np.pi * width) ** 2 * squared)
        image = np.fft.irfft2(np.fft.rfft2(white) * response, s=(SIDE, SIDE)).astype(np.float32)
        prepared = prepare(image, pixel_size_angstrom=1.0, diameter_angstrom=DIAMETER_PIXEL * step)
        made.append(LabelledMicrograph.of("noise", prepared, np.zeros((0, 2))))
    return made


def near(positions: np.ndarray, shape: torch.Size) -> torch.Tensor:
    """Return where members of aggregates are near: whole particles, but none that one would pick; they teach nothing.

    Positions (x, y) in pixels of the prepared micrograph; bool, of its shape.
    """
    y, x = torch.meshgrid(*(torch.arange(side) for side in shape), indexing="ij")
    mask = torch.zeros(shape, dtype=torch.bool)
    for px, py in positions:
        mask |= (x - px) ** 2 + (y - py) ** 2 <= (DIAMETER_PIXEL / 3) ** 2
    return mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("general.safetensors"))
    parser.add_argument("--micrographs", type=int, default=3, help="of each specimen")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--crops-per-epoch", type=int, default=1120)
    parser.add_argument("--channels", type=int, default=24)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    parts = []
    for index, name in enumerate((*TRAINING_SPECIMENS, *CALIBRATING_SPECIMENS)):
        parts.append(examples_of(name, index * given.micrographs, given.micrographs))
        print(f"{name:24s} {sum(len(one.position_pixel) for one in parts[-1]):5d} particles", flush=True)
    taught = [one for part in parts[: len(TRAINING_SPECIMENS)] for one in part]
    judges = [one for part in parts[len(TRAINING_SPECIMENS) :] for one in part]
    n_noise = round(NOISE * len(taught))
    taught += noise(0, n_noise)
    judges += noise(n_noise, round(NOISE * len(judges)))
    simulated = time.process_time()
    params = DetectorTrainingParams(
        diameter_angstrom=1.0,  # every micrograph has its own
        expected_per_micrograph=max(1.0, sum(len(one.position_pixel) for one in judges) / len(judges)),
        loss="pn",
        channels=given.channels,
        epochs=given.epochs,
        batch=16,
        crops_per_epoch=given.crops_per_epoch,
        seed=SEED,
    )
    trained = training.train(taught, judges, params, after_epoch=_tell)
    n_labels = sum(len(one.position_pixel) for one in taught)
    made = card.DetectorCard.of(
        trained, params, n_micrographs=len(taught), n_labels=n_labels, source="simulated micrographs"
    )
    made = replace(made, diameter_angstrom=None, specimens=TRAINING_SPECIMENS)
    given.out.write_bytes(card.to_bytes(card.Detector(network=trained.network, card=made)))
    print(
        f"simulated in {simulated - began:.0f} CPU seconds, taught in {time.process_time() - simulated:.0f}; "
        f"best epoch {trained.best_epoch}, average precision {trained.average_precision.max():.3f} on "
        f"{len(CALIBRATING_SPECIMENS)} other specimens; {trained.calibration}"
    )


def _tell(state: training.TrainingState) -> None:
    print(
        f"epoch {len(state.fit.losses)}: loss {state.fit.losses[-1]:.4f}, "
        f"average precision {state.average_precision[-1]:.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
