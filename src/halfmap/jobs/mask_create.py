"""``halfmap mask create``: a soft solvent mask from a map, or from other masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Gt

from halfmap.errors import InputError
from halfmap.postprocessing.params import MaskParams
from halfmap.project.job import JobContext, JobType


@dataclass(frozen=True, kw_only=True)
class MaskCreateParams(MaskParams):
    """Inputs and settings of ``halfmap mask create``."""

    volume: Path
    """The map, best the mean of two half maps, not sharpened; particle bright."""

    union_with: Path | None = None
    """Add what lies in this mask."""

    intersect_with: Path | None = None
    """Keep only what lies in this mask too."""

    subtract: Path | None = None
    """Take away what lies in this mask."""

    invert: bool = False
    """Write 1 minus the mask, last of all."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the map, if its header states none or a wrong one."""


def _run(context: JobContext, params: MaskCreateParams) -> Path:
    from halfmap.io import mrc
    from halfmap.jobs.half_map_inputs import read_mask, warn_of_dark_density
    from halfmap.jobs.map_inputs import read_map
    from halfmap.jobs.postprocess_report import mask_report
    from halfmap.postprocessing import concerns, masks
    from halfmap.report.blocks import Fact

    volume = read_map(params.volume, params.pixel_size_angstrom)
    warn_of_dark_density(context, volume)
    mask, threshold = masks.mask_from_map(volume, params)
    how = "given" if params.threshold is not None else "found"
    nyquist_angstrom = 2 * volume.grid.pixel_size_angstrom
    filtered = f"low-passed at {params.low_pass_angstrom:g} Å"
    if params.low_pass_angstrom < nyquist_angstrom:
        filtered = f"not low-passed, for {params.low_pass_angstrom:g} Å is finer than its {nyquist_angstrom:.3g} Å"
    context.progress.message(f"Threshold {threshold:.4g}, {how}, of the map {filtered}.")
    steps = ((params.union_with, masks.union), (params.intersect_with, masks.intersection))
    for path, combine in (*steps, (params.subtract, masks.difference)):
        if path is not None:
            mask = combine(mask, read_mask(path, volume, params.volume, params.pixel_size_angstrom))
    found = concerns.concerns_about_mask(mask)
    if params.invert:
        mask = masks.inverted(mask)
    if not bool((mask.values > 0.5).any()):
        raise InputError(
            "A mask must hold a voxel above 0.5; got none after masks were combined; look at what they have in common."
        )
    for concern in found:
        context.progress.message(concern.words)
    output = context.folder / "mask.mrc"
    mrc.write_volume(output, mask)

    volume_angstrom3 = masks.volume_angstrom3(mask)
    share = volume_angstrom3 / (volume.grid.n_pixels * volume.grid.pixel_size_angstrom**3)
    context.progress.message(f"The mask holds {volume_angstrom3 / 1e3:.4g} nm³, {100 * share:.1f} % of the box.")
    facts = [
        Fact(label="Volume", value=float(f"{volume_angstrom3 / 1e3:.3g}"), unit="nm³", note="above 0.5"),
        Fact(label="Share of the box", value=float(f"{100 * share:.3g}"), unit="%"),
        Fact(label="Threshold", value=float(f"{threshold:.3g}"), note=how),
        Fact(label="Extended by", value=_length(params.extend.to_angstrom(volume.grid.pixel_size_angstrom)), unit="Å"),
        Fact(label="Soft edge", value=_length(params.soft_edge.to_angstrom(volume.grid.pixel_size_angstrom)), unit="Å"),
    ]
    summary = f"From {params.volume.name}, {filtered}."
    context.report(mask_report(mask, volume, title="Solvent mask", summary=summary, facts=facts, concerns=found))
    return output


def _length(angstrom: float) -> float:
    return float(f"{angstrom:.3g}")


JOB = JobType(
    command="mask create",
    folder="MaskCreate",
    parameters=MaskCreateParams,
    run=_run,
    summary="Make a soft solvent mask from a map",
    inputs=("volume", "union_with", "intersect_with", "subtract"),
)
