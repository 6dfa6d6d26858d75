"""The page of denoising: the map before and after, and what correlations say and do not say about it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.denoising.denoise import DenoisedMaps
from halfmap.fourier import shells
from halfmap.jobs.postprocess_report import concern_notes
from halfmap.jobs.volume_report import central_slices
from halfmap.postprocessing.concerns import Concern
from halfmap.postprocessing.half_map_fsc import HalfMapFsc
from halfmap.postprocessing.sharpening import SharpenedMap
from halfmap.report.blocks import Axis, Block, Curve, Fact, Facts, Line, Mark, Note, Report, Section

_LEAST_SOLVENT = 1e-3  # of what is left; less is a map that FSC weights have emptied
_TILE_PIXEL = 138  # six stand side by side beside the page's list of sections
_NO_RESOLUTION = (
    "The FSC between the denoised halves measures no resolution: what is strong in both is kept in both, and the rest "
    "is gone. The resolution is that of the half maps as they were given."
)


def denoise_report(
    found: DenoisedMaps,
    fsc: HalfMapFsc,
    before: SharpenedMap,
    after: Volume,
    halves: Sequence[Path],
    *,
    concerns: Sequence[Concern],
    mask: Volume,
    truth: Volume | None,
) -> Report:
    """Return the page.

    Parameters
    ----------
    fsc : of the half maps as they were given.
    before : their mean, weighted by the FSC and sharpened.
    after : the mean of the denoised halves, sharpened alike.
    halves : the two files.
    concerns : about the half maps.
    mask : in which maps are compared with the truth.
    truth : None shows no such comparison.
    """
    losses = found.denoiser.losses
    number = np.arange(1, losses.shape[1] + 1)
    learning = Curve(
        title="Learning",
        lines=[Line(label=f"network {n}", x=number, y=of) for n, of in enumerate(losses, 1)],
        x=Axis(label="times that all voxels were seen"),
        y=Axis(label="what is left of the other half"),
        caption="Share of a band's power that the denoised half does not tell of the other, mean over the bands; the "
        "other's noise never can be told.",
    )
    sections = [
        Section(
            title="Maps",
            blocks=[
                *concern_notes(concerns),
                *(
                    replace(central_slices(volume, title), tile_pixel=_TILE_PIXEL)
                    for title, volume in (("Denoised", after), ("Before, weighted by the FSC", before.volume))
                ),
            ],
        ),
        Section(title="Between the halves", blocks=[_halves_curve(found, fsc), Note(text=_NO_RESOLUTION)]),
    ]
    if truth is not None:
        sections.append(Section(title="With the truth", blocks=_truth_blocks(before.volume, after, truth, mask)))
    sections.append(Section(title="Networks", blocks=[learning]))
    return Report(
        title="Denoised map",
        summary=f"{halves[0].name} with {halves[1].name}.",
        facts=Facts(
            facts=[
                _resolution(fsc),
                Fact(label="Denoised to", value=float(f"{found.denoiser.to_angstrom:.4g}"), unit="Å"),
                Fact(label="B-factor", value=round(before.b_factor_angstrom2), unit="Å²"),
                Fact(
                    label="Solvent", value=_solvent_text(before.volume, after, mask), note="deviation outside the mask"
                ),
            ]
        ),
        sections=sections,
    )


def _resolution(fsc: HalfMapFsc) -> Fact:
    note = "half maps as given, FSC = 0.143, corrected"
    if not np.isfinite(fsc.resolution_angstrom):
        return Fact(label="Resolution", value="none", note=note, level="warning")
    return Fact(label="Resolution", value=float(f"{fsc.resolution_angstrom:.4g}"), unit="Å", note=note)


def _solvent_text(before: Volume, after: Volume, mask: Volume) -> str:
    outside = mask.values < 0.01
    if not bool(outside.any()):
        return "none"
    one, other = (float(volume.values[outside].std()) for volume in (before, after))
    return f"{other / one:.2f} of before" if one > _LEAST_SOLVENT * other else "none before"


def _halves_curve(found: DenoisedMaps, fsc: HalfMapFsc) -> Curve:
    curves = {
        "half maps, corrected": fsc.corrected,
        "half maps, unmasked": fsc.unmasked,
        "denoised halves, unmasked": _fsc(found.half1, found.half2),
    }
    return _curve("Fourier shell correlation", curves, fsc, thresholds=(0.143,))


def _truth_blocks(before: Volume, after: Volume, truth: Volume, mask: Volume) -> list[Block]:
    curves = {
        "before": _fsc(before, truth),
        "denoised": _fsc(after, truth),
        "before, masked": _fsc(_times(before, mask), _times(truth, mask)),
        "denoised, masked": _fsc(_times(after, mask), _times(truth, mask)),
    }
    return [_curve("Fourier shell correlation with the truth", curves, before, thresholds=(0.5,))]


def _curve(title: str, curves: dict[str, Tensor], like: Volume | HalfMapFsc, *, thresholds: Sequence[float]) -> Curve:
    frequencies = shells.shell_frequencies(like.grid).numpy()
    lines = [
        Line(label=name, x=frequencies[1:], y=curve[1:].numpy(), style="dashed" if "denoised" in name else "line")
        for name, curve in curves.items()
    ]
    return Curve(
        title=title,
        lines=lines,
        x=Axis(label="resolution", unit="Å", scale="resolution", limits=(0.0, float(frequencies[-1]))),
        y=Axis(label="FSC", limits=(min(-0.1, *(float(curve[1:].min()) for curve in curves.values())), 1.03)),
        marks=[Mark(value=value, axis="y", label=f"{value:g}") for value in thresholds],
    )


def _fsc(first: Volume, second: Volume) -> Tensor:
    grid = first.grid
    return shells.fsc(grid.rfft(first.values.double()), grid.rfft(second.values.double()), grid)


def _times(volume: Volume, mask: Volume) -> Volume:
    return Volume(values=volume.values * mask.values, grid=volume.grid)
