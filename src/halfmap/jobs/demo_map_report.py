"""The map on the page of the demonstration: how it looks, and how well it agrees with the truth."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.data.refinement_run import RefinementRun
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError
from halfmap.fourier import shells
from halfmap.fourier.resample import rescale_to_pixel_size
from halfmap.geometry.symmetric_volumes import rotate_volume
from halfmap.jobs.volume_report import central_slices
from halfmap.postprocessing.masks import automatic_mask, automatic_threshold, low_passed
from halfmap.refinement import agreement
from halfmap.report.blocks import Axis, Curve, Gallery, Histogram, Line, Mark, Note, Section
from halfmap.report.surface import surface_picture

_SURFACE_LEVEL = 1.3  # of the automatic threshold, which is made for masks and so is generous
_TILTS_DEGREES = (0.0, 55.0, 90.0)
_HALF_TURN = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
_TILE_PIXEL = 138  # six stand side by side beside the page's list of sections
_BINS = 25


@dataclass(frozen=True, kw_only=True, eq=False)
class MapAgainstTruth:
    """A refined map beside the one that its particles were simulated from.

    Parameters
    ----------
    truth : as the refinement sees it, on its grid, and of its hand.
    is_mirrored : whether the refined map is the mirror image of what was simulated.
    maps : correlations of the half maps with each other and of their mean with the truth.
    errors : of the poses of the particles that show something true.
    """

    truth: Volume
    is_mirrored: bool
    maps: agreement.MapAgreement
    errors: agreement.PoseErrors


def against_truth(
    run: RefinementRun, truth: ParticleSet, rows: NDArray[np.int64], reference: Volume
) -> MapAgainstTruth:
    """Compare a finished refinement with the truth, in whichever hand it came out.

    Parameters
    ----------
    run : with the positions of its particles in their micrographs.
    truth : particles with their true positions and poses.
    rows : of the truth, one for each particle of the run; −1 for what shows no particle.
    reference : the true map, of any grid.

    Raises
    ------
    InconsistentDataError
        The run has no half maps yet.

    Notes
    -----
    The map inverted through its centre looks, from anywhere, as the map itself does half a turn further in the plane.
    """
    first, second = (half.unregularised for half in run.halves)
    if first is None or second is None:
        raise InconsistentDataError("A refinement must have half maps to be compared; got none; let it finish.")
    shown = np.flatnonzero(rows >= 0)
    particles, truth = run.particles.take(shown), truth.take(rows[shown])
    true_rotation, true_origin = truth["rotation"], _true_origin(particles, truth)
    grid = first.grid
    values, _ = rescale_to_pixel_size(reference.values, reference.grid, grid.pixel_size_angstrom, grid.side)
    found = (particles["rotation"], particles["origin_angstrom"], run.symmetry)
    tried = []
    for is_mirrored in (False, True):
        turned = _HALF_TURN.numpy() @ true_rotation if is_mirrored else true_rotation
        frame = agreement.fitted_frame(turned, true_origin, *found)
        errors = agreement.pose_errors(frame, turned, true_origin, *found)
        tried.append((float(np.median(errors.angle_degrees)), is_mirrored, frame, errors))
    _, is_mirrored, frame, errors = min(tried, key=lambda one: one[0])
    true_map = agreement.in_frame(Volume(values=_inverted(values) if is_mirrored else values, grid=grid), frame)
    maps = agreement.map_agreement(
        first, second, true_map, automatic_mask(true_map), join_resolution_angstrom=run.join_resolution_angstrom
    )
    return MapAgainstTruth(truth=true_map, is_mirrored=is_mirrored, maps=maps, errors=errors)


def map_section(refined: Volume, resolution_angstrom: float, found: MapAgainstTruth) -> Section:
    """Return the pictures of the refined map beside the true one.

    Parameters
    ----------
    refined : of all particles, not sharpened.
    resolution_angstrom : to which the truth is low-passed for its picture.
    """
    truth = low_passed(found.truth, resolution_angstrom)
    hand = "The map lies as its initial model happened to; the truth is turned to lie alike."
    if found.is_mirrored:
        hand = "The map came out as a mirror image, for images cannot tell the hand. The truth is mirrored to match it."
    return Section(
        title="The map",
        blocks=(
            surfaces(refined, "Refined from the particles"),
            surfaces(truth, f"The truth, to {resolution_angstrom:.2g} Å"),
            _tiled(central_slices(refined, "Refined")),
            _tiled(central_slices(truth, "The truth")),
            Note(text=hand),
        ),
    )


def agreement_section(found: MapAgainstTruth) -> Section:
    """Return what the half maps say of themselves beside what the truth says, and the errors of poses."""
    grid = found.maps.halves.grid
    frequency = shells.shell_frequencies(grid).numpy()[1:]
    lines = [
        Line(label="with the truth", x=frequency, y=found.maps.truth[1:].numpy()),
        Line(label="promised by the half maps", x=frequency, y=found.maps.promised[1:].numpy(), style="dashed"),
        Line(label="between the half maps", x=frequency, y=found.maps.halves.corrected[1:].numpy()),
    ]
    angles, shifts = found.errors.angle_degrees, found.errors.shift_angstrom
    return Section(
        title="The map against the truth",
        blocks=(
            Curve(
                title="Fourier shell correlation",
                lines=lines,
                x=Axis(label="resolution", unit="Å", scale="resolution", limits=(0.0, float(frequency[-1]))),
                y=Axis(label="FSC", limits=(-0.1, 1.03)),
                marks=[Mark(value=threshold, axis="y", label=f"{threshold:g}") for threshold in (0.5, 0.143)],
                caption="Halves that share nothing tell how well their mean agrees with a truth that nobody knows, "
                "√(2 FSC / (1 + FSC)). Here it is known.",
            ),
            _errors(angles, "Errors of angles", "angle", "°"),
            _errors(shifts, "Errors of shifts", "distance", "Å"),
        ),
        intro=f"Half of the particles are right to {np.median(angles):.2g}° and {np.median(shifts):.2g} Å. Those far "
        "off are views that look alike, and junk that passed the selection.",
    )


def surfaces(volume: Volume, title: str) -> Gallery:
    """Return a map's surface seen along its axis, at a slant, and from the side."""
    threshold = _SURFACE_LEVEL * automatic_threshold(volume)
    pictures = []
    for tilt in _TILTS_DEGREES:
        turned = rotate_volume(volume.values, volume.grid, _about_x(tilt)).numpy()
        pictures.append(surface_picture(turned, threshold))
    captions = ["along z", f"tilted by {_TILTS_DEGREES[1]:g}°", "from the side"]
    return Gallery(pictures=pictures, captions=captions, title=title, tile_pixel=260)


def _true_origin(particles: ParticleSet, truth: ParticleSet) -> NDArray[np.float64]:
    """Return the shifts in Å that would centre particles in their windows, which lie about their picks."""
    pixel_size = particles.optics_values("micrograph_pixel_size_angstrom")[:, None]
    apart = (particles["position_pixel"] - truth["position_pixel"]) * pixel_size
    return np.asarray(apart + truth["origin_angstrom"])


def _tiled(gallery: Gallery) -> Gallery:
    return replace(gallery, tile_pixel=_TILE_PIXEL)


def _errors(values: NDArray[np.float64], title: str, label: str, unit: str) -> Histogram:
    """Return the errors of most particles; the caption counts those beyond."""
    reach = 4 * float(np.median(values)) + 1e-6
    beyond = int(np.count_nonzero(values > reach))
    histogram = Histogram.of(
        values[values <= reach],
        title=title,
        x=Axis(label=label, unit=unit, limits=(0.0, reach)),
        bins=_BINS,
        caption=f"{beyond} of {len(values)} particles lie beyond.",
    )
    return replace(histogram, y=Axis(label="particles"))


def _about_x(degrees: float) -> torch.Tensor:
    angle = np.deg2rad(degrees)
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, cosine, sine], [0.0, -sine, cosine]], dtype=torch.float64)


def _inverted(values: torch.Tensor) -> torch.Tensor:
    """Return a cubic map inverted through its centre voxel, n // 2."""
    even = values.shape[0] % 2 == 0
    flipped = values.flip((0, 1, 2))
    return flipped.roll((1, 1, 1), (0, 1, 2)) if even else flipped
