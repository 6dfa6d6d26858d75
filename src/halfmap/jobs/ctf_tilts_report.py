"""What the page of ``halfmap ctf`` shows of tilt series."""

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from halfmap.ctf_estimation.tilts import TiltEstimates
from halfmap.data.image_series import TiltSeries
from halfmap.jobs.per_micrograph import Rejected
from halfmap.report.blocks import Axis, Curve, Fact, Facts, Gallery, Line, Note, Report, Section, Table
from halfmap.report.pictures import Picture

_DRAWN = 20
_CLEARLY = 1.1

FoundSeries = tuple[TiltSeries, TiltEstimates, Sequence[np.ndarray]]


def page(found: Sequence[FoundSeries], rejected: Sequence[Rejected]) -> Report:
    """Return the page.

    Parameters
    ----------
    found : each series, what was found, and pictures of its spectra.
    rejected : what was set aside.
    """
    tilts = [tilt for _, one, _ in found for tilt in one.tilts]
    lost = sum(bool(tilt.failure) for tilt in tilts)
    resolution = [tilt.max_resolution_angstrom for tilt in tilts if not tilt.failure]
    facts = [
        Fact(label="tilt series", value=len(found)),
        Fact(label="tilts", value=len(tilts)),
        Fact(label="tilts without rings", value=lost, level="warning" if lost else "plain"),
        Fact(
            label="rings end at, median", value=round(float(np.median(resolution)), 1) if resolution else "–", unit="Å"
        ),
        Fact(label="set aside", value=len(rejected), level="warning" if rejected else "plain"),
    ]
    notes = [_hand_note(found)]
    if rejected:
        text = "\n\n".join(["Set aside, listed in rejected.star:", *(f"{one.name}: {one.reason}." for one in rejected)])
        notes.append(Note(text=text, level="warning"))
    return Report(
        title="CTF estimation of tilt series",
        summary=f"The CTF of {len(tilts) - lost} of {len(tilts)} tilts in {len(found)} series.",
        facts=Facts(facts=facts),
        sections=[
            Section(title="Hand and what was set aside", blocks=tuple(notes)),
            Section(title="Series", intro=_INTRO, blocks=tuple(_table_and_curves(found))),
            *(_series_section(*one) for one in found[:_DRAWN]),
        ],
    )


_INTRO = (
    "Defocus in the middle of the sample. A jump from tilt to tilt is a fit that went wrong, or a stage that moved; "
    "tilts without rings have the defocus of their neighbours."
)


def _hand_note(found: Sequence[FoundSeries]) -> Note:
    stated = sum(one.hand_scores[0] for _, one, _ in found)
    opposite = sum(one.hand_scores[1] for _, one, _ in found)
    numbers = f"all tilts score {stated:.0f} with the gradient of the defocus as the metadata have it, {opposite:.0f} "
    if stated > _CLEARLY * opposite:
        return Note(text=f"The hand is right: {numbers}with the opposite one.", level="good")
    if opposite > _CLEARLY * stated:
        text = (
            f"The hand is wrong: {numbers}with the opposite one. Turn it (AreAnglesInverted of Warp, rlnTomoHand of "
            "RELION) and run again."
        )
        return Note(text=text, level="bad")
    return Note(text=f"The hand cannot be told: {numbers}with the opposite one.", level="warning")


def _table_and_curves(found: Sequence[FoundSeries]) -> list[Curve | Table]:
    lines = [
        Line(
            label=series.name,
            x=series.tilt_angle_degrees,
            y=np.array([lens.defocus_angstrom for lens in one.lenses]),
            style="line" if len(found) <= 6 else "thin",
        )
        for series, one, _ in found
    ]
    rows = [
        (
            series.name,
            len(series),
            sum(bool(tilt.failure) for tilt in one.tilts),
            round(float(np.median([lens.defocus_angstrom for lens in one.lenses]))),
            round(2 * one.lenses[0].half_astigmatism_angstrom),
            _median([tilt.max_resolution_angstrom for tilt in one.tilts if not tilt.failure]),
            round(one.hand_scores[0] / max(one.hand_scores[1], 1e-9), 2),
        )
        for series, one, _ in found
    ]
    return [
        Curve(
            title="Defocus over the tilts",
            lines=lines,
            x=Axis(label="tilt angle", unit="°"),
            y=Axis(label="defocus", unit="Å"),
        ),
        Table(
            title="Series",
            columns=(
                "series",
                "tilts",
                "without rings",
                "defocus, median (Å)",
                "astigmatism (Å)",
                "rings to, median (Å)",
                "score over that of the other hand",
            ),
            rows=rows,
        ),
    ]


def _series_section(series: TiltSeries, one: TiltEstimates, cards: Sequence[np.ndarray]) -> Section:
    captions = [
        f"{angle:.0f}°: {lens.defocus_angstrom:.0f} Å, "
        + ("no rings" if tilt.failure else f"to {tilt.max_resolution_angstrom:.1f} Å")
        for angle, tilt, lens in zip(series.tilt_angle_degrees, one.tilts, one.lenses, strict=True)
    ]
    gallery = Gallery(
        pictures=tuple(_jpeg(card) for card in cards),
        captions=captions,
        caption="Spectrum of the strip nearest to the tilt axis, in the quarters of a micrograph's page.",
    )
    return Section(title=series.name, blocks=(gallery,))


def _median(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return round(float(np.median(finite)), 1) if finite else None


def _jpeg(data: np.ndarray) -> Picture:
    content = data.tobytes()
    with Image.open(io.BytesIO(content)) as opened:
        return Picture(data=content, media_type="image/jpeg", shape=(opened.height, opened.width))
