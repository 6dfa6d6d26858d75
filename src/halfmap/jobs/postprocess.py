"""``halfmap postprocess``: the resolution of two half maps, and their sharpened mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Gt

from halfmap.errors import InputError
from halfmap.postprocessing.params import PostprocessParams
from halfmap.project.job import JobContext, JobType


@dataclass(frozen=True, kw_only=True)
class PostprocessJobParams(PostprocessParams):
    """Inputs and settings of ``halfmap postprocess``."""

    half1: Path
    """An unfiltered half map, or the folder of the refinement that made both."""

    half2: Path | None = None
    """The other half map. Default: found beside the first, by its name."""

    mask: Path | None = None
    """Soft solvent mask, or the folder of the job that made it. Default: made from the mean of the half maps."""

    mtf: Path | None = None
    """STAR file with the MTF of the detector."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Calibrated pixel size of all maps, instead of the one in their headers."""

    automatic_mask: bool = True
    """Make a mask where none is given; without, nothing is masked."""

    seed: int = 1
    """Seed of the random phases."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mtf is None and self.mtf_pixel_size_angstrom is not None:
            raise InputError("--mtf-pixel-size must go with an MTF; got it without --mtf; give both or neither.")


def _run(context: JobContext, params: PostprocessJobParams) -> Path:
    from halfmap.io import mrc
    from halfmap.jobs import half_map_inputs as inputs
    from halfmap.jobs import postprocess_report
    from halfmap.jobs.postprocess_files import write_fsc_xml, write_postprocess_star
    from halfmap.postprocessing.postprocess import memory_bytes, postprocess

    paths = inputs.find_halves(params.half1, params.half2)
    context.log(f"Half maps: {paths[0]} and {paths[1]}")
    first, second = inputs.read_halves(*paths, params.pixel_size_angstrom)
    context.expect_memory(memory_bytes(first.grid), "transforms of the half maps")
    mtf = inputs.mtf_of_maps(context, params.mtf, params.mtf_pixel_size_angstrom, first.grid)
    mask, mask_path = None, None
    if params.mask is not None:
        mask = inputs.read_mask(params.mask, first, paths[0], params.pixel_size_angstrom)
        mask_path = params.mask / "mask.mrc" if params.mask.is_dir() else params.mask
    elif params.automatic_mask:
        mask = inputs.made_mask(context, first, second)
        mask_path = context.folder / "mask.mrc"

    band_shell = inputs.band_shell_of(paths[0], first.grid)
    result = postprocess(first, second, mask, params, mtf=mtf, band_shell=band_shell, seed=params.seed)

    output = context.folder / "postprocess.mrc"
    masked = context.folder / "postprocess_masked.mrc"
    mrc.write_volume(output, result.map)
    mrc.write_volume(masked, result.masked_map)
    names = {
        "rlnUnfilteredMapHalf1": context.relative(paths[0]),
        "rlnUnfilteredMapHalf2": context.relative(paths[1]),
        "rlnPostprocessedMap": context.relative(output),
        "rlnMaskName": "" if mask_path is None else context.relative(mask_path),
        "rlnPostprocessedMapMasked": context.relative(masked),
    }
    write_postprocess_star(context.folder / "postprocess.star", result, names)
    write_fsc_xml(context.folder / "postprocess_fsc.xml", result.fsc)
    if params.directional and result.directional is None:
        context.progress.message("Directions were not compared: the box must have three equal sides for it.")
    for concern in result.concerns:
        context.progress.message(concern.words)
    context.progress.message(
        f"Resolution {result.resolution_angstrom:.2f} Å at FSC 0.143, B-factor {result.b_factor_angstrom2:.0f} Å²."
    )
    is_automatic = params.mask is None and mask is not None
    context.report(postprocess_report.postprocess_report(result, paths, is_mask_automatic=is_automatic))
    return output


JOB = JobType(
    command="postprocess",
    folder="PostProcess",
    parameters=PostprocessJobParams,
    run=_run,
    summary="Measure the resolution of two half maps and sharpen their mean",
    inputs=("half1", "half2", "mask", "mtf"),
)
