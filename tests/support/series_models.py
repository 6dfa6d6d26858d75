"""Series with every parameter set, as plain numbers and as halfmap's nouns."""

import numpy as np
import torch

from halfmap.data.image_series import FrameSeries, SeriesOptics, TiltSeries
from halfmap.splines.grids import LinearGrid, SplineGrid

TILTS = (-48.0, -21.0, 0.0, 18.0, 47.0)
DOSE = (12.0, 6.0, 0.0, 3.0, 9.0)


def plain_tilt_series(seed=0, *, inverted=True, tilts=TILTS, dose=DOSE):
    random = np.random.default_rng(seed)
    n = len(tilts)
    return {
        "tilt": tilts,
        "dose": dose,
        "axis": tuple(random.uniform(-90, -80, n)),
        "offset": random.normal(scale=20, size=(n, 2)),
        "level_x": 3.0,
        "level_y": -4.0,
        "inverted": inverted,
        "volume": (4000.0, 3600.0, 1500.0),
        "image": (4100.0, 3900.0),
        "movement": random.normal(scale=4, size=(2, n, 2, 3)),
        "volume_warp": random.normal(scale=6, size=(3, 4, 2, 3, 3)),
        "stage": random.normal(scale=1.5, size=(3, n, 1, 1)),
    }


def plain_frame_series(seed=0, *, n_frames=6):
    random = np.random.default_rng(seed)
    return {
        "dose": tuple(1.2 * np.arange(n_frames)),
        "image": (4100.0, 3900.0),
        "n_frames_of_movie": n_frames + 2,
        "movement": random.normal(scale=4, size=(2, 5, 1, 1)),
        "local_movement": random.normal(scale=2, size=(2, 3, 3, 4)),
        "pyramid": (random.normal(size=(2, 5, 1, 1)), random.normal(size=(2, 3, 2, 2))),
        "stage": random.normal(scale=1.5, size=(3, n_frames, 3, 3)),
    }


def _grids(names, values, kind=SplineGrid):
    return {name: kind(values=torch.from_numpy(value)) for name, value in zip(names, values, strict=True)}


def _stage(model):
    return _grids([f"stage_angle_{axis}_degrees" for axis in "xyz"], model["stage"])


def tilt_series(model, **fields):
    return TiltSeries(
        name="TS_1",
        image_size_angstrom=model["image"],
        dose_e_per_angstrom2=np.array(model["dose"]),
        is_used=np.ones(len(model["dose"]), dtype=bool),
        optics=fields.pop("optics", SeriesOptics(pixel_size_angstrom=1.5)),
        volume_size_angstrom=model["volume"],
        tilt_angle_degrees=np.array(model["tilt"]),
        axis_angle_degrees=np.array(model["axis"]),
        axis_offset_angstrom=model["offset"],
        level_angle_x_degrees=model["level_x"],
        level_angle_y_degrees=model["level_y"],
        are_angles_inverted=model["inverted"],
        **_grids(["movement_x_angstrom", "movement_y_angstrom"], model["movement"]),
        **_grids([f"volume_warp_{axis}_angstrom" for axis in "xyz"], model["volume_warp"], LinearGrid),
        **_stage(model),
        **fields,
    )


def frame_series(model, **fields):
    return FrameSeries(
        name="movie_1",
        image_size_angstrom=model["image"],
        dose_e_per_angstrom2=np.array(model["dose"]),
        is_used=np.ones(len(model["dose"]), dtype=bool),
        optics=fields.pop("optics", SeriesOptics(pixel_size_angstrom=1.5)),
        n_frames_of_movie=model["n_frames_of_movie"],
        **_grids(["movement_x_angstrom", "movement_y_angstrom"], model["movement"]),
        **_grids(["local_movement_x_angstrom", "local_movement_y_angstrom"], model["local_movement"]),
        pyramid_x_angstrom=tuple(SplineGrid(values=torch.from_numpy(level[0])) for level in model["pyramid"]),
        pyramid_y_angstrom=tuple(SplineGrid(values=torch.from_numpy(level[1])) for level in model["pyramid"]),
        **_stage(model),
        **fields,
    )


def particles_in(size, n_particles, n_samples, seed=0):
    """Positions (P, n, 3) that drift evenly through a volume of that size, float64."""
    random = np.random.default_rng(seed)
    start = random.uniform(0.1, 0.9, (n_particles, 1, 3)) * np.asarray(size)
    drift = random.uniform(5, 12, (n_particles, 1, 3)) * np.linspace(0, 1, n_samples)[:, None]
    return torch.from_numpy(start + drift)
