"""Picking with the real Topaz: a picker as the others, whose work a program does."""

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from halfmap.compute.device import task_device
from halfmap.io import mrc, topaz
from halfmap.jobs import picking
from halfmap.jobs.topaz_program import call, downscale_for, find_program, prepared, require, standardised
from halfmap.picking.micrograph_picks import MicrographPicks
from halfmap.project.job import JobContext

if TYPE_CHECKING:
    from halfmap.jobs.pick_topaz import PickTopazParams


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How Topaz is called for one micrograph.

    Parameters
    ----------
    program : its path.
    model : the network; None for Topaz's own.
    diameter_angstrom : of the particles.
    downscale : factor by which micrographs are reduced; None follows from the diameter.
    threshold : least log-odds of a pick.
    extra : further arguments.
    """

    program: str
    model: str | None
    diameter_angstrom: float
    downscale: int | None
    threshold: float
    extra: tuple[str, ...]


def pick_all(context: JobContext, params: "PickTopazParams") -> Path:
    """Pick in all micrographs and return the path of ``autopick.star``."""
    extraction = Extraction(
        program=find_program(params.executable),
        model=None if params.model is None else str(params.model),
        diameter_angstrom=params.diameter_angstrom,
        downscale=params.downscale,
        threshold=params.threshold,
        extra=tuple(shlex.split(params.extra_arguments)),
    )
    context.progress.message(
        f"Topaz is {extraction.program}; its network is {extraction.model or 'the pretrained one that it brings'}."
    )
    return picking.pick_all(
        context,
        params.micrographs,
        pick,
        extraction,
        pixel_size_angstrom=params.pixel_size_angstrom,
        radius_angstrom=params.diameter_angstrom / 2,
        title="Topaz",
    )


def pick(micrograph: Tensor, *, pixel_size_angstrom: float, params: Extraction) -> MicrographPicks:
    """Pick in one micrograph; the figure of merit is Topaz's log-odds.

    Raises
    ------
    JobFailed
        The program fails, or writes no coordinates file.
    """
    downscale = params.downscale or downscale_for(params.diameter_angstrom, pixel_size_angstrom)
    work = prepared(micrograph, pixel_size_angstrom=pixel_size_angstrom, downscale=downscale)
    radius = max(1, round(params.diameter_angstrom / (2 * pixel_size_angstrom * downscale)))
    device = task_device()
    with tempfile.TemporaryDirectory(prefix="halfmap-topaz-") as folder:
        image, output = Path(folder) / "micrograph.mrc", Path(folder) / "coordinates.txt"
        mrc.write_image(image, standardised(work), work.grid)
        said = call(
            params.program,
            [
                "extract",
                *(("-m", params.model) if params.model is not None else ()),
                *("-r", radius, "-t", params.threshold, "-d", -1 if device.type == "cpu" else device.index or 0),
                *("--num-threads", torch.get_num_threads(), "-o", output),
                *params.extra,
                image,
            ],
            say=_drop,
        )
        found = topaz.read(require(output, "a coordinates file", params.program, said))
    order = np.argsort(-found.figure_of_merit, kind="stable")
    return MicrographPicks(
        position_pixel=work.to_micrograph(found.position_pixel[order]),
        figure_of_merit=found.figure_of_merit[order],
        diameter_angstrom=np.full(len(order), params.diameter_angstrom),
        threshold=params.threshold,
        reason=np.zeros(work.grid.shape, dtype=np.uint8),
        mask_pixel_size_angstrom=work.grid.pixel_size_angstrom,
        reduced=work.values,
    )


def _drop(line: str) -> None:
    """Pass over a line: a failure repeats the last ones."""
