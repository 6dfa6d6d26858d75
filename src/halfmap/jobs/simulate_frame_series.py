"""``halfmap simulate frame-series``: frame series whose truth is known, as Warp would leave them."""

from dataclasses import dataclass
from pathlib import Path

from halfmap.jobs.simulation_inputs import SpecimenParams
from halfmap.project.job import JobContext, JobType
from halfmap.simulation.series_params import FrameSeriesSimulationParams


@dataclass(frozen=True, kw_only=True)
class SimulateFrameSeriesParams(SpecimenParams, FrameSeriesSimulationParams):
    """Inputs and settings of ``halfmap simulate frame-series``; several specimens are several species."""


def run(context: JobContext, params: SimulateFrameSeriesParams) -> Path:
    """Simulate, and return the path of ``warp_frameseries.settings``."""
    from halfmap.jobs import series_simulation as series
    from halfmap.jobs.simulate_one_series import simulate_frame_series
    from halfmap.simulation.frame_series_truth import draw_frame_series

    kind = series.SeriesKind(draw=draw_frame_series, simulate=simulate_frame_series, label="frame series")
    series.simulate(context, params, kind)
    series.write_live_settings(context.folder, params, params.dose_e_per_angstrom2 / params.frames)
    return series.write_movie_settings(context.folder, params, params.dose_e_per_angstrom2)


JOB = JobType(
    command="simulate frame-series",
    folder="Simulate",
    parameters=SimulateFrameSeriesParams,
    run=run,
    summary="Make frame series whose truth is known",
    inputs=("model", "map"),
)
