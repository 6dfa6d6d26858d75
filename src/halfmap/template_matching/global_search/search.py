"""The global search as a step: chunk after chunk of orientations, then maps and peaks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from halfmap.compute.executor import Executor
from halfmap.compute.progress import Progress
from halfmap.errors import InconsistentDataError
from halfmap.template_matching.global_search.background import local_background
from halfmap.template_matching.global_search.correlation import correlate_chunk
from halfmap.template_matching.global_search.maps import CorrelationMaps
from halfmap.template_matching.global_search.params import MatchTemplateParams
from halfmap.template_matching.global_search.peaks import TemplatePeaks, cutoff_of, find_template_peaks
from halfmap.template_matching.global_search.problem import MatchProblem
from halfmap.tensors import Rotations


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchState:
    """A search under way.

    Parameters
    ----------
    n_done : chunks done, the first ones.
    maps : of their correlations.
    """

    n_done: int
    maps: CorrelationMaps


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchResult:
    """What a search has found.

    Parameters
    ----------
    mip : float32, shape (y, x): highest correlation at each place, in standard deviations of white noise. Pixel (0, 0)
        is where the template's first pixel lies on the micrograph's.
    scaled_mip : the same less ``background_mean``, over ``background_deviation``.
    correlation_mean, correlation_deviation : of each place over all correlations.
    background_mean, background_deviation : what the MIP is measured in: these, or what is usual around a place.
    phi_degrees, theta_degrees, psi_degrees, defocus_offset_angstrom, pixel_size_offset_angstrom : float32, of the
        highest correlation.
    histogram : int64: see `CorrelationMaps`.
    n_correlations : of each place.
    cutoff : least scaled MIP of a peak.
    peaks : those above it.
    """

    mip: Tensor
    scaled_mip: Tensor
    correlation_mean: Tensor
    correlation_deviation: Tensor
    background_mean: Tensor
    background_deviation: Tensor
    phi_degrees: Tensor
    theta_degrees: Tensor
    psi_degrees: Tensor
    defocus_offset_angstrom: Tensor
    pixel_size_offset_angstrom: Tensor
    histogram: Tensor
    n_correlations: int
    cutoff: float
    peaks: TemplatePeaks

    def rotations(self, pixel: Tensor) -> Rotations:
        """Return the best orientations at pixels (x, y) of the maps, int64, shape (n, 2)."""
        from halfmap.geometry.rotations import matrix_from_euler

        x, y = pixel.unbind(-1)
        return matrix_from_euler(self.phi_degrees[y, x], self.theta_degrees[y, x], self.psi_degrees[y, x])


def start(problem: MatchProblem) -> MatchState:
    """Return the state before the first chunk."""
    return MatchState(n_done=0, maps=CorrelationMaps.empty(problem.map_shape))


def is_done(problem: MatchProblem, state: MatchState) -> bool:
    """Tell whether every orientation has been tried."""
    return state.n_done >= problem.n_chunks


def advance(problem: MatchProblem, state: MatchState, executor: Executor, progress: Progress) -> Iterator[MatchState]:
    """Yield the state after each further chunk, to the last.

    Parameters
    ----------
    problem : what is searched.
    state : to go on from.
    executor : runs the chunks. They are joined in their order, so any number of workers gives the same maps.
    progress : is told the correlations done.

    Raises
    ------
    InconsistentDataError
        The state is of another search.
    """
    if tuple(state.maps.best.shape) != problem.map_shape or state.n_done > problem.n_chunks:
        raise InconsistentDataError(
            f"A saved search must have maps of {problem.map_shape[1]}×{problem.map_shape[0]} px; got "
            f"{state.maps.best.shape[1]}×{state.maps.best.shape[0]} px; begin a new job."
        )
    of_chunk = problem.units_of_chunk * problem.orientations_of_unit * problem.n_together
    progress.start("Correlating", problem.n_correlations)
    progress.advance(min(state.n_done * of_chunk, problem.n_correlations))
    task = partial(correlate_chunk, executor.broadcast(problem))
    for maps in executor.map(task, range(state.n_done, problem.n_chunks), progress=progress):
        state = MatchState(n_done=state.n_done + 1, maps=state.maps.joined(maps))
        yield state


def finish(problem: MatchProblem, params: MatchTemplateParams, state: MatchState) -> MatchResult:
    """Turn gathered correlations into maps, and find their peaks.

    Parameters
    ----------
    problem, params : of the search.
    state : after the last chunk.
    """
    n, maps = problem.n_correlations, state.maps
    mean, deviation = maps.mean(n), maps.deviation(n)
    if params.normalisation == "local":
        background_mean, background_deviation = local_background(mean, deviation, problem.template.side)
    else:
        background_mean, background_deviation = mean, deviation
    usable = background_deviation > 0
    scaled = torch.where(usable, (maps.best - background_mean) / background_deviation.clamp(min=1e-12), 0.0)
    orientation, pixel_size, defocus = problem.place_of(maps.best_number.to(torch.int64))
    phi, theta, psi = problem.orientations.angles(orientation)
    cutoff = params.cutoff or cutoff_of(params.false_positives, n_places=scaled.numel(), n_correlations=n)
    return MatchResult(
        mip=maps.best,
        scaled_mip=scaled,
        correlation_mean=mean,
        correlation_deviation=deviation,
        background_mean=background_mean,
        background_deviation=background_deviation,
        phi_degrees=phi.to(torch.float32),
        theta_degrees=theta.to(torch.float32),
        psi_degrees=psi.to(torch.float32),
        defocus_offset_angstrom=_chosen(problem.defocus_offsets_angstrom, defocus),
        pixel_size_offset_angstrom=_chosen(problem.pixel_size_offsets_angstrom, pixel_size),
        histogram=maps.histogram,
        n_correlations=n,
        cutoff=cutoff,
        peaks=find_template_peaks(scaled, cutoff=cutoff, distance_pixel=params.peak_distance),
    )


def _chosen(offsets: tuple[float, ...], indices: Tensor) -> Tensor:
    return torch.tensor(offsets, dtype=torch.float32)[indices]
