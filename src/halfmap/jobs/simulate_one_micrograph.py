"""The task of `halfmap simulate micrographs`: one micrograph, from its number to its file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfmap.compute.broadcast import Broadcast
from halfmap.io.mrc import write_image
from halfmap.simulation.layout import lay_out
from halfmap.simulation.micrographs import References, micrograph
from halfmap.simulation.params import MicrographSimulationParams

_ARRAYS_AT_ONCE = 12
"""Arrays of four bytes a pixel that a micrograph takes while it is made."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MicrographTask:
    """One micrograph.

    Parameters
    ----------
    number : from 0; key of its draws.
    path : of the file, absolute.
    params : the settings.
    references : handle of `References`.
    """

    number: int
    path: Path
    params: MicrographSimulationParams
    references: Broadcast


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedMicrograph:
    """What a micrograph shows, inside its borders.

    Parameters
    ----------
    position_pixel : float64, shape (n, 2).
    rotation : float64, shape (n, 3, 3).
    class_number : int64, shape (n,).
    kind : text, shape (n,).
    defocus : float64, shape (3,): U, V in Å and angle in degrees.
    has_carbon : whether carbon shows.
    n_crystals : number of ice crystals.
    mean_count : electrons in a pixel.
    """

    position_pixel: np.ndarray
    rotation: np.ndarray
    class_number: np.ndarray
    kind: np.ndarray
    defocus: np.ndarray
    has_carbon: bool
    n_crystals: int
    mean_count: float


def simulate_micrograph(task: MicrographTask) -> SimulatedMicrograph:
    """Make a micrograph and write its file."""
    references: References = task.references.load()
    layout = lay_out(task.number, task.params, references.diameters_angstrom)
    made = micrograph(layout, references, task.params)
    write_image(task.path, made.counts, made.grid, float16=task.params.float16)
    inside = layout.is_inside(task.params.size_pixel)
    lens = layout.defocus
    return SimulatedMicrograph(
        position_pixel=layout.position_pixel[inside],
        rotation=layout.rotation[inside],
        class_number=layout.class_number[inside],
        kind=layout.kind[inside].astype(object),
        defocus=np.array([lens.u_angstrom[0], lens.v_angstrom[0], lens.angle_degrees[0]]),
        has_carbon=layout.carbon is not None,
        n_crystals=0 if layout.crystals is None else len(layout.crystals.diameters_angstrom),
        mean_count=float(made.counts.mean()),
    )


def memory_bytes(params: MicrographSimulationParams) -> int:
    """Bound on the memory that one micrograph takes."""
    margin = 400.0 / params.pixel_size_angstrom
    return int(4 * _ARRAYS_AT_ONCE * (params.size_pixel[0] + margin) * (params.size_pixel[1] + margin))
