"""``halfmap volume local-resolution``: the resolution of two half maps from place to place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Gt

from halfmap.errors import InputError
from halfmap.postprocessing.params import LocalResolutionParams
from halfmap.project.job import JobContext, JobType


@dataclass(frozen=True, kw_only=True)
class LocalResolutionJobParams(LocalResolutionParams):
    """Inputs and settings of ``halfmap volume local-resolution``."""

    half1: Path
    """An unfiltered half map, or the folder of the refinement that made both."""

    half2: Path | None = None
    """The other half map. Default: found beside the first, by its name."""

    mask: Path | None = None
    """Mask of where to measure, or the folder of the job that made it. Default: made from the mean of the half maps."""

    mtf: Path | None = None
    """STAR file with the MTF of the detector, for the filtered map."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Calibrated pixel size of all maps, instead of the one in their headers."""

    seed: int = 1
    """Seed of the random phases."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mtf is None and self.mtf_pixel_size_angstrom is not None:
            raise InputError("--mtf-pixel-size must go with an MTF; got it without --mtf; give both or neither.")
        if self.worst_resolution_angstrom <= self.randomise_from_angstrom:
            raise InputError(
                f"--worst-resolution must be a lower resolution than --randomise-from; got "
                f"{self.worst_resolution_angstrom:g} and {self.randomise_from_angstrom:g} Å; exchange them."
            )


def _run(context: JobContext, params: LocalResolutionJobParams) -> Path:
    import dataclasses

    from halfmap.compute.device import select_devices
    from halfmap.io import mrc
    from halfmap.jobs import half_map_inputs as inputs
    from halfmap.jobs.local_resolution_report import local_resolution_report
    from halfmap.postprocessing import local_resolution as local
    from halfmap.postprocessing.half_map_fsc import half_map_fsc
    from halfmap.postprocessing.sharpening import sharpen

    paths = inputs.find_halves(params.half1, params.half2)
    context.log(f"Half maps: {paths[0]} and {paths[1]}")
    first, second = inputs.read_halves(*paths, params.pixel_size_angstrom)
    context.expect_memory(local.memory_bytes(first.grid, params), "local resolution")
    mtf = inputs.mtf_of_maps(context, params.mtf, params.mtf_pixel_size_angstrom, first.grid)
    if params.mask is not None:
        mask = inputs.read_mask(params.mask, first, paths[0], params.pixel_size_angstrom)
    else:
        mask = inputs.made_mask(context, first, second)

    band_shell = inputs.band_shell_of(paths[0], first.grid)
    context.progress.start("Points", len(local.sampling_points(mask, params.step_angstrom)))
    found = local.local_resolution(
        first,
        second,
        mask,
        params,
        band_shell=band_shell,
        seed=params.seed,
        device=select_devices(context.options.devices)[0],
        advance=context.progress.advance,
    )
    fsc = half_map_fsc(first, second, mask, band_shell=band_shell, seed=params.seed)
    concerns = inputs.told_concerns(context, first, second, fsc)
    # the B-factor is that of post-processing, from amplitudes weighted by the FSC of the whole map; then the local
    # filter takes the place of these weights
    weighted = sharpen(first, second, fsc.corrected, fsc.resolution_angstrom, params, mtf=mtf)
    everywhere = dataclasses.replace(
        params,
        b_factor_angstrom2=weighted.b_factor_angstrom2,
        fsc_weighting=False,
        low_pass_angstrom=params.low_pass_angstrom or 2 * first.grid.pixel_size_angstrom,
    )
    sharpened = sharpen(first, second, fsc.corrected, fsc.resolution_angstrom, everywhere, mtf=mtf)
    filtered = local.locally_filtered(sharpened.volume, found.resolution, edge_width=params.edge_width)

    output = context.folder / "local_resolution.mrc"
    mrc.write_volume(output, found.resolution)
    mrc.write_volume(context.folder / "locally_filtered.mrc", filtered)
    context.report(
        local_resolution_report(
            found, filtered, mask, fsc.resolution_angstrom, weighted.b_factor_angstrom2, paths, concerns
        )
    )
    middle = float(found.point_resolution_angstrom.median())
    if found.n_at_worst:
        context.progress.message(
            f"At {found.n_at_worst} of {len(found.points_pixel)} points the halves have nothing in common down to "
            f"{params.worst_resolution_angstrom:g} Å."
        )
    context.progress.message(f"Median {middle:.2f} Å over {len(found.points_pixel)} points.")
    return output


JOB = JobType(
    command="volume local-resolution",
    folder="LocalRes",
    parameters=LocalResolutionJobParams,
    run=_run,
    summary="Measure the resolution from place to place and filter the map by it",
    inputs=("half1", "half2", "mask", "mtf"),
)
