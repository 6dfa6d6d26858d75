"""``halfmap volume denoise``: two half maps denoised by what each confirms of the other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Gt

from halfmap.denoising.params import DenoisingParams
from halfmap.project.job import JobContext, JobType


@dataclass(frozen=True, kw_only=True)
class DenoiseJobParams(DenoisingParams):
    """Inputs and settings of ``halfmap volume denoise``."""

    half1: Path
    """An unfiltered half map, or the folder of the refinement that made both."""

    half2: Path | None = None
    """The other half map. Default: found beside the first, by its name."""

    mask: Path | None = None
    """Mask in which the FSC is measured, or the folder of the job that made it; the denoised maps are not masked.
    Default: made from the mean of the half maps."""

    truth: Path | None = None
    """A map that is known to be right, as of a simulation: the page compares both maps with it."""

    b_factor_angstrom2: float | None = None
    """Multiply amplitudes of the denoised map by exp(-B s²/4): negative sharpens. Default: from the Guinier plot."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Calibrated pixel size of all maps, instead of the one in their headers."""


def _run(context: JobContext, params: DenoiseJobParams) -> Path:
    from halfmap.data.volumes import Volume
    from halfmap.denoising import denoise as denoising
    from halfmap.fourier import filters
    from halfmap.io import mrc, states
    from halfmap.jobs import half_map_inputs as inputs
    from halfmap.jobs.denoise_report import denoise_report
    from halfmap.jobs.map_inputs import read_map
    from halfmap.postprocessing.half_map_fsc import check_same_grid, half_map_fsc
    from halfmap.postprocessing.params import SharpeningParams
    from halfmap.postprocessing.sharpening import sharpen

    paths = inputs.find_halves(params.half1, params.half2)
    context.log(f"Half maps: {paths[0]} and {paths[1]}")
    first, second = inputs.read_halves(*paths, params.pixel_size_angstrom)
    if params.to_angstrom is not None:
        denoising.check_reach(first.grid, params.to_angstrom)
    truth = None
    if params.truth is not None:
        truth = read_map(params.truth, params.pixel_size_angstrom)
        check_same_grid(truth, first, str(params.truth), str(paths[0]))
    if params.mask is not None:
        mask = inputs.read_mask(params.mask, first, paths[0], params.pixel_size_angstrom)
    else:
        mask = inputs.made_mask(context, first, second)
    band_shell = inputs.band_shell_of(paths[0], first.grid)
    fsc = half_map_fsc(first, second, mask, band_shell=band_shell, seed=params.seed)
    concerns = inputs.told_concerns(context, first, second, fsc)
    to = params.to_angstrom or denoising.custom_limit_angstrom(fsc.resolution_angstrom, first.grid)
    context.expect_memory(denoising.memory_bytes(first.grid, to), "denoising")
    context.progress.start("Halves and networks", denoising.N_STEPS)
    found = denoising.denoise(first, second, to, seed=params.seed, advance=context.progress.advance)

    settings = SharpeningParams(b_factor_angstrom2=params.b_factor_angstrom2)
    before = sharpen(first, second, fsc.corrected, fsc.resolution_angstrom, settings)
    by_b = filters.b_factor(first.grid, before.b_factor_angstrom2)
    after = Volume(values=filters.apply_filter(found.mean.values, first.grid, by_b), grid=first.grid)
    output = context.folder / "denoised.mrc"
    mrc.write_volume(output, after)
    for number, half in enumerate((found.half1, found.half2), 1):
        mrc.write_volume(context.folder / f"denoised_half{number}.mrc", half)
    states.save(context.folder / "denoiser.safetensors", found.denoiser)
    context.report(denoise_report(found, fsc, before, after, paths, concerns=concerns, mask=mask, truth=truth))
    context.progress.message(f"Denoised to {to:.2f} Å.")
    return output


JOB = JobType(
    command="volume denoise",
    folder="Denoise",
    parameters=DenoiseJobParams,
    run=_run,
    summary="Denoise two half maps by networks that learn from them",
    inputs=("half1", "half2", "mask", "truth"),
)
