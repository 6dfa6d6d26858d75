"""What pages say about half maps: curves, Guinier plot, maps, directions, and the numbers for a methods section."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.jobs.volume_report import central_slices
from halfmap.postprocessing import masks
from halfmap.postprocessing.concerns import Concern
from halfmap.postprocessing.directional import DirectionalFsc
from halfmap.postprocessing.half_map_fsc import THRESHOLD, HalfMapFsc, shell_resolution_angstrom
from halfmap.postprocessing.postprocess import PostprocessResult
from halfmap.postprocessing.sharpening import GuinierPlot, SharpenedMap
from halfmap.report.blocks import (
    Axis,
    Block,
    Cell,
    Curve,
    Fact,
    Facts,
    Gallery,
    Level,
    Line,
    Mark,
    Note,
    Report,
    Scatter,
    Section,
    Table,
)
from halfmap.report.pictures import Picture, enlarge, shrink, to_grey

_MAX_SIDE, _MIN_SIDE = 360, 260  # of a slice in its picture
_TILE_PIXEL = 138  # six stand side by side beside the page's list of sections
_OUTLINE = (255, 122, 66)


def postprocess_report(result: PostprocessResult, halves: Sequence[Path], *, is_mask_automatic: bool) -> Report:
    """Return the page of two half maps.

    Parameters
    ----------
    halves : the two files.
    is_mask_automatic : whether the mask was made from the maps themselves.
    """
    levels = [concern.level for concern in result.concerns]
    return Report(
        title="Post-processing",
        summary=f"{halves[0].name} with {halves[1].name}: {_summary(result, is_mask_automatic)}",
        facts=Facts(facts=postprocess_facts(result)),
        sections=postprocess_sections(result, is_mask_automatic=is_mask_automatic),
        level="bad" if "bad" in levels else "warning" if "warning" in levels else "good",
    )


def postprocess_facts(result: PostprocessResult) -> list[Fact]:
    """Return the tiles: resolution, B-factor, mask, directions."""
    fsc = result.fsc
    is_bad = any(concern.level == "bad" for concern in result.concerns)
    facts = [
        _resolution_fact("Resolution", fsc.resolution_angstrom, "FSC = 0.143, corrected", "bad" if is_bad else "good"),
        _resolution_fact("Resolution at 0.5", fsc.resolution_of(fsc.corrected, 0.5), "corrected"),
        _resolution_fact("Without mask", fsc.resolution_of(fsc.unmasked), "FSC = 0.143"),
        Fact(label="B-factor", value=round(result.b_factor_angstrom2), unit="Å²"),
        Fact(label="Nyquist", value=float(f"{2 * fsc.grid.pixel_size_angstrom:.4g}"), unit="Å"),
    ]
    if result.directional is not None and bool(torch.isfinite(result.directional.resolution_angstrom).all()):
        directional = result.directional
        facts.append(
            Fact(
                label="Directions",
                value=f"{directional.best_angstrom:.3g} to {directional.worst_angstrom:.3g}",
                unit="Å",
                note=f"sphericity {directional.sphericity:.2f}",
            )
        )
    if result.mask is not None:
        facts.append(
            Fact(
                label="Mask",
                value=float(f"{masks.volume_angstrom3(result.mask) / 1e3:.3g}"),
                unit="nm³",
                note="above 0.5",
            )
        )
    return facts


def postprocess_sections(result: PostprocessResult, *, is_mask_automatic: bool) -> list[Section]:
    """Return the sections, for this page or that of a refinement that ends with post-processing."""
    resolution: list[Block] = [*concern_notes(result.concerns)]
    if is_mask_automatic:
        resolution.append(
            Note(text="The mask was made from the mean of the half maps. Look at it below; --mask takes a better one.")
        )
    resolution += [fsc_curve(result.fsc), guinier_curve(result.guinier, result.b_factor_angstrom2)]
    maps: list[Block] = []
    if result.mask is not None:
        maps.append(outlined_slices(result.map, result.mask, "Sharpened map, with the outline of the mask"))
    shown = {"Sharpened map": result.map}
    if result.mask is not None:
        shown |= {"Sharpened map, masked": result.masked_map, "Mask": result.mask}
    maps += [replace(central_slices(volume, title), tile_pixel=_TILE_PIXEL) for title, volume in shown.items()]
    sections = [Section(title="Resolution and sharpening", blocks=resolution), Section(title="Maps", blocks=maps)]
    if result.directional is not None and bool(torch.isfinite(result.directional.resolution_angstrom).all()):
        sections.append(_directions(result.directional, result.fsc))
    sections.append(
        Section(
            title="For the methods section",
            blocks=[Note(text=methods_text(result, is_mask_automatic=is_mask_automatic)), methods_table(result)],
        )
    )
    return sections


def fsc_curve(fsc: HalfMapFsc) -> Curve:
    """Return the figure of the correlations."""
    frequencies = shells.shell_frequencies(fsc.grid).numpy()[1:]
    end = fsc.end_shell
    shown = {"corrected": fsc.corrected, "unmasked": fsc.unmasked}
    if fsc.masked is not fsc.unmasked:
        shown |= {"masked": fsc.masked}
    if fsc.randomise_from_shell is not None:
        shown |= {"phases randomised": fsc.randomised}
    styles = {"masked": "dashed", "phases randomised": "dotted"}
    lines = [
        Line(label=name, x=frequencies[:end], y=curve[1 : end + 1].numpy(), style=styles.get(name, "line"))  # type: ignore[arg-type]
        for name, curve in shown.items()
    ]
    marks = [Mark(value=threshold, axis="y", label=f"{threshold:g}") for threshold in (0.5, THRESHOLD)]
    if math.isfinite(fsc.resolution_angstrom):
        marks.append(Mark(value=1 / fsc.resolution_angstrom, label=f"{fsc.resolution_angstrom:.2f} Å"))
    lowest = min(float(curve[1:].min()) for curve in shown.values())
    captions = []
    if fsc.randomise_from_angstrom is not None:
        captions.append(f"Phases were randomised beyond {fsc.randomise_from_angstrom:.1f} Å.")
    if end < len(frequencies):
        band_angstrom = shell_resolution_angstrom(end, fsc.grid)
        captions.append(f"The half maps hold data up to {band_angstrom:.3g} Å, the band of the last iteration.")
    return Curve(
        title="Fourier shell correlation",
        lines=lines,
        x=Axis(label="resolution", unit="Å", scale="resolution", limits=(0.0, float(frequencies[-1]))),
        y=Axis(label="FSC", limits=(max(-0.4, min(-0.1, lowest)), 1.03)),
        marks=marks,
        caption=" ".join(captions),
    )


def guinier_curve(guinier: GuinierPlot, b_factor_angstrom2: float) -> Curve:
    """Return the figure of logarithmic amplitudes against 1/d²."""
    x = guinier.resolution_squared.numpy()
    lines = [Line(label="mean of the halves", x=x, y=guinier.original.numpy())]
    if not _are_alike(guinier.original, guinier.mtf_corrected):
        lines.append(Line(label="divided by the MTF", x=x, y=guinier.mtf_corrected.numpy()))
    if not _are_alike(guinier.mtf_corrected, guinier.weighted):
        lines.append(Line(label="weighted by the FSC", x=x, y=guinier.weighted.numpy()))
    lines.append(Line(label="sharpened", x=x, y=guinier.sharpened.numpy()))
    caption = f"B-factor {b_factor_angstrom2:.0f} Å², given." if b_factor_angstrom2 else "No line was fitted."
    if math.isfinite(guinier.slope_angstrom2):
        fitted = x[guinier.is_fitted.numpy()]
        line = guinier.intercept + guinier.slope_angstrom2 * fitted
        lines.append(Line(label="fit", x=fitted, y=line, style="dashed"))
        caption = (
            f"B-factor {b_factor_angstrom2:.0f} Å²; the fit to {len(fitted)} shells gives "
            f"{guinier.b_factor_angstrom2:.0f} Å², R² = {guinier.correlation**2:.3f}."
        )
    return Curve(
        title="Guinier plot",
        lines=lines,
        x=Axis(label="1 / d²", unit="1/Å²"),
        y=Axis(label="ln of the mean amplitude"),
        caption=caption,
    )


def methods_text(result: PostprocessResult, *, is_mask_automatic: bool) -> str:
    """Return sentences that a methods section can take over."""
    fsc = result.fsc
    words = [f"The resolution is {fsc.resolution_angstrom:.2f} Å at FSC = 0.143 between half maps"]
    if result.mask is not None:
        kind = "an automatic soft mask" if is_mask_automatic else "a soft mask"
        words.append(f" within {kind} of {masks.volume_angstrom3(result.mask) / 1e3:.0f} nm³")
    else:
        words.append(" without a mask")
    if fsc.randomise_from_angstrom is not None:
        words.append(
            ", corrected for the effect of the mask by randomising phases beyond "
            f"{fsc.randomise_from_angstrom:.1f} Å (Chen et al. 2013)"
        )
    *steps, last = _treatment(result.sharpened)
    words.append(f". The mean of the half maps was {', '.join(steps)}{' and ' if steps else ''}{last}.")
    return "".join(words)


def _treatment(sharpened: SharpenedMap) -> list[str]:
    """Return what was done to the mean of the half maps, in words and in order."""
    guinier, steps = sharpened.guinier, []
    if not _are_alike(guinier.original, guinier.mtf_corrected):
        steps.append("divided by the modulation transfer function of the detector")
    if not _are_alike(guinier.mtf_corrected, guinier.weighted):
        steps.append("weighted by √(2 FSC / (1 + FSC)) (Rosenthal and Henderson 2003)")
    verb = "dampened" if sharpened.b_factor_angstrom2 > 0 else "sharpened"
    steps.append(f"{verb} with a B-factor of {sharpened.b_factor_angstrom2:.0f} Å²")
    if sharpened.low_pass_angstrom is not None:
        steps.append(f"low-passed at {sharpened.low_pass_angstrom:.2f} Å")
    return steps


def _are_alike(one: Tensor, other: Tensor) -> bool:
    return bool(torch.equal(one.nan_to_num(), other.nan_to_num()))


def methods_table(result: PostprocessResult) -> Table:
    """Return the numbers that a paper or a deposition asks for."""
    fsc, guinier, grid = result.fsc, result.guinier, result.grid
    rows: list[list[Cell]] = [
        ["pixel size", _rounded(grid.pixel_size_angstrom, 5), "Å"],
        ["box", " × ".join(map(str, grid.shape[::-1])), "px"],
        ["resolution, FSC = 0.143, corrected", _rounded(fsc.resolution_angstrom), "Å"],
        ["resolution, FSC = 0.143, masked", _rounded(fsc.resolution_of(fsc.masked)), "Å"],
        ["resolution, FSC = 0.143, unmasked", _rounded(fsc.resolution_of(fsc.unmasked)), "Å"],
        ["resolution, FSC = 0.143, particle's share of the box", _rounded(fsc.resolution_of(fsc.particle)), "Å"],
        ["resolution, FSC = 0.5, corrected", _rounded(fsc.resolution_of(fsc.corrected, 0.5)), "Å"],
        ["phases randomised beyond", _rounded(fsc.randomise_from_angstrom), "Å"],
        ["B-factor", _rounded(result.b_factor_angstrom2), "Å²"],
        ["slope of the Guinier fit", _rounded(guinier.slope_angstrom2), "Å²"],
        ["low-pass filter", _rounded(result.sharpened.low_pass_angstrom), "Å"],
    ]
    if result.mask is not None:
        rows += [
            ["mask, volume above 0.5", _rounded(masks.volume_angstrom3(result.mask) / 1e3), "nm³"],
            ["mask, share of the box", _rounded(100 * float((result.mask.values > 0.5).double().mean())), "%"],
        ]
    if result.directional is not None:
        directional = result.directional
        rows += [
            ["resolution, best direction", _rounded(directional.best_angstrom), "Å"],
            ["resolution, worst direction", _rounded(directional.worst_angstrom), "Å"],
            ["sphericity of directional resolution", _rounded(directional.sphericity), ""],
            ["half angle of the cones", directional.cone_half_angle_degrees, "°"],
        ]
    return Table(columns=["", "value", "unit"], rows=rows)


def _directions(directional: DirectionalFsc, fsc: HalfMapFsc) -> Section:
    frequencies = shells.shell_frequencies(fsc.grid).numpy()[1:]
    drawn = frequencies[: fsc.end_shell]
    told = slice(1, fsc.end_shell + 1)
    lines = [Line(label="", x=drawn, y=curve[told].numpy(), style="thin") for curve in directional.curves]
    lines.append(Line(label="all directions", x=drawn, y=fsc.corrected[told].numpy()))
    curve = Curve(
        title="FSC in cones",
        lines=lines,
        x=Axis(label="resolution", unit="Å", scale="resolution", limits=(0.0, float(frequencies[-1]))),
        y=Axis(label="FSC", limits=(-0.3, 1.03)),
        marks=[Mark(value=THRESHOLD, axis="y", label=f"{THRESHOLD:g}")],
        caption=f"{len(directional.directions)} cones of {directional.cone_half_angle_degrees:g}° around their axes.",
    )
    x, y, z = directional.directions.T.numpy()
    # Lambert's projection of the half sphere: equal areas stay equal
    stretch = np.sqrt(1 / (1 + z))
    scatter = Scatter(
        title="Resolution by direction",
        points=np.stack([x * stretch, y * stretch], axis=1),
        x=Axis(label="x"),
        y=Axis(label="y"),
        colours=directional.resolution_angstrom.numpy(),
        colour=Axis(label="resolution", unit="Å"),
        equal=True,
        caption="Half sphere seen along z, equal areas; z in the middle, x and y on the rim.",
    )
    return Section(
        title="Directions",
        blocks=[curve, scatter],
        intro=f"Best {directional.best_angstrom:.3g} Å, worst {directional.worst_angstrom:.3g} Å; the limiting "
        f"frequency varies by {100 * directional.anisotropy:.0f} % (standard deviation); sphericity "
        f"{directional.sphericity:.2f}, where 1 is alike in all directions.",
    )


def _summary(result: PostprocessResult, is_mask_automatic: bool) -> str:
    where = "no mask" if result.mask is None else "an automatic mask" if is_mask_automatic else "the mask given"
    return f"{result.resolution_angstrom:.2f} Å with {where}."


def _resolution_fact(label: str, value: float, note: str, level: Level = "plain") -> Fact:
    if not math.isfinite(value):
        return Fact(label=label, value="none", note=note, level=level)
    return Fact(label=label, value=_rounded(value) or 0.0, unit="Å", note=note, level=level)


def concern_notes(concerns: Sequence[Concern]) -> list[Note]:
    """Return a note for each concern."""
    return [Note(text=concern.words, level=concern.level) for concern in concerns]


def _rounded(value: float | None, digits: int = 3) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def mask_report(
    mask: Volume, source: Volume, *, title: str, summary: str, facts: Sequence[Fact], concerns: Sequence[Concern] = ()
) -> Report:
    """Return the page of a mask: its outline on the map that it was made from, the mask, the map."""
    blocks: list[Block] = [
        *concern_notes(concerns),
        outlined_slices(source, mask, "Map, with the outline of the mask"),
        central_slices(mask, "Mask"),
        central_slices(source, "Map"),
    ]
    return Report(
        title=title, summary=summary, facts=Facts(facts=facts), sections=[Section(title="Maps", blocks=blocks)]
    )


def outlined_slices(volume: Volume, mask: Volume, title: str) -> Gallery:
    """Return the central slices of a map with a line where the mask is one half."""
    z, y, x = volume.grid.centre
    values, weights = volume.values.numpy(), mask.values.numpy()
    pictures = []
    for cut in (np.s_[z], np.s_[:, y], np.s_[:, :, x]):
        grey = to_grey(_to_size(values[cut]), percentiles=(0.5, 99.9))
        inside = _to_size(weights[cut]) > 0.5
        edge = inside & ~ndimage.binary_erosion(inside, border_value=1, iterations=2)
        picture = np.repeat(grey[..., None], 3, axis=-1)
        picture[edge] = _OUTLINE
        pictures.append(Picture.png(picture))
    return Gallery(
        pictures=pictures,
        captions=["slice x, y", "slice x, z", "slice y, z"],
        title=title,
        caption="The line is where the mask is 0.5.",
        tile_pixel=260,
    )


def _to_size(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    return enlarge(shrink(plane, _MAX_SIDE), _MIN_SIDE)
