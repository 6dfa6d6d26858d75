"""``halfmap simulate tilt-series``: tilt series whose truth is known, as Warp would leave them."""

from dataclasses import dataclass
from pathlib import Path

from halfmap.jobs.simulation_inputs import SpecimenParams
from halfmap.project.job import JobContext, JobType
from halfmap.simulation.series_params import TiltSeriesSimulationParams


@dataclass(frozen=True, kw_only=True)
class SimulateTiltSeriesParams(SpecimenParams, TiltSeriesSimulationParams):
    """Inputs and settings of ``halfmap simulate tilt-series``; several specimens are several species."""


def run(context: JobContext, params: SimulateTiltSeriesParams) -> Path:
    """Simulate, and return the path of ``warp_tiltseries.settings``."""
    from halfmap.jobs import series_simulation as series
    from halfmap.jobs.simulate_one_series import simulate_tilt_series
    from halfmap.simulation.tilt_series_truth import draw_tilt_series

    kind = series.SeriesKind(draw=draw_tilt_series, simulate=simulate_tilt_series, label="tilt series")
    series.simulate(context, params, kind)
    series.write_movie_settings(context.folder, params, params.dose_per_tilt_e_per_angstrom2)
    return series.write_tilt_settings(context.folder, params)


JOB = JobType(
    command="simulate tilt-series",
    folder="Simulate",
    parameters=SimulateTiltSeriesParams,
    run=run,
    summary="Make tilt series whose truth is known",
    inputs=("model", "map"),
)
