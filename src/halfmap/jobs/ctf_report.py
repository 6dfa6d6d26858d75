"""What the page of ``halfmap ctf`` shows: spectra with their models, fits, and what is out of the ordinary."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from PIL import Image

from halfmap.ctf_estimation.estimate import CtfEstimate
from halfmap.ctf_estimation.quality import rings_alone
from halfmap.jobs.ctf_micrograph import CtfMicrograph
from halfmap.jobs.per_micrograph import Rejected
from halfmap.report.blocks import Axis, Block, Fact, Facts, Histogram, Line, Mark, Note, Report, Scatter, Section, Table
from halfmap.report.pictures import Picture
from halfmap.report.ranked_gallery import Entry, Quantity, RankedGallery

_NAMED = 10
_QUANTITIES = (
    Quantity(label="resolution of the rings", short="rings to", unit="Å", decimals=1, best="low"),
    Quantity(label="defocus", unit="Å", decimals=0, best="low"),
    Quantity(label="astigmatism", unit="Å", decimals=0, best="low"),
    Quantity(label="figure of merit", decimals=2, place="detail"),
)
_INTRO = (
    "Left half of each spectrum: the model; upper right quarter: the data, every ring of it in units of its own "
    "deviation; lower right: the data averaged along lines of equal phase. Rings must go on from one part into the "
    "other. A click shows it large, with the spectrum averaged along lines of "
    "equal phase, and the model."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownMicrograph:
    """A micrograph on the page.

    Parameters
    ----------
    name : of the micrograph.
    found : what was found out.
    concerns : what speaks against it.
    """

    name: str
    found: CtfMicrograph
    concerns: tuple[str, ...]


def page(shown: Sequence[ShownMicrograph], lost: Sequence[ShownMicrograph], rejected: Sequence[Rejected]) -> Report:
    """Return the page.

    Parameters
    ----------
    shown : micrographs whose CTF was found.
    lost : those without rings.
    rejected : those that could not be read.
    """
    resolution = np.array([one.found.estimate.max_resolution_angstrom for one in shown])
    defocus = np.array([one.found.estimate.lens.defocus_angstrom for one in shown])
    n_concerns = sum(bool(one.concerns) for one in shown)
    facts = [
        Fact(label="micrographs", value=len(shown)),
        Fact(label="rings end at, median", value=_median(resolution, 1), unit="Å"),
        Fact(label="defocus, median", value=_median(defocus, 0), unit="Å"),
        Fact(label="without rings", value=len(lost), level="warning" if lost else "plain"),
        Fact(label="out of the ordinary", value=n_concerns, level="warning" if n_concerns else "plain"),
        Fact(label="set aside", value=len(rejected), level="warning" if rejected else "plain"),
    ]
    sections = [
        *_notes(shown, lost, rejected),
        Section(title="Power spectra", intro=_INTRO, blocks=(_gallery(shown),) if shown else ()),
        Section(title="Distributions", blocks=_distributions(shown, resolution, defocus)),
        Section(title="Micrographs", blocks=(_table(shown),)),
    ]
    if lost:
        sections.insert(
            2,
            Section(
                title="Without rings",
                intro="Left: the model that fits least badly. Where rings are seen but not fitted, widen the limits.",
                blocks=(_gallery(lost),),
            ),
        )
    return Report(
        title="CTF estimation",
        summary=f"The CTF of {len(shown)} of {len(shown) + len(lost) + len(rejected)} micrographs.",
        facts=Facts(facts=facts),
        sections=sections,
    )


def _notes(
    shown: Sequence[ShownMicrograph], lost: Sequence[ShownMicrograph], rejected: Sequence[Rejected]
) -> list[Section]:
    groups = [
        ("Set aside, listed in rejected.star:", [(one.name, one.reason) for one in rejected]),
        (
            "No rings, listed in failed.star and left out of the table:",
            [(one.name, one.found.estimate.failure) for one in lost],
        ),
        (
            "Out of the ordinary; column halfmapCtfConcerns counts the concerns, for `halfmap select values`:",
            [(one.name, "; ".join(one.concerns)) for one in shown if one.concerns],
        ),
    ]
    blocks = []
    for title, named in groups:
        if named:
            more = [f"… and {len(named) - _NAMED} more."] if len(named) > _NAMED else []
            text = "\n\n".join([title, *(f"{name}: {reason}." for name, reason in named[:_NAMED]), *more])
            blocks.append(Note(text=text, level="warning"))
    return [Section(title="Worth a look", blocks=tuple(blocks))] if blocks else []


def _gallery(shown: Sequence[ShownMicrograph]) -> RankedGallery:
    return RankedGallery(
        quantities=_QUANTITIES,
        entries=tuple(_entry(one, name) for one, name in zip(shown, _short_names(shown), strict=True)),
        tile_pixel=200,
        x=Axis(label="resolution", unit="Å", scale="resolution"),
        y=Axis(label="power less background, rings' height", limits=(-0.5, 1.5)),
        details_title="Spectrum and fit of each micrograph",
        curve_caption="Power averaged along lines of equal phase, less the background, and the rings as fitted.",
    )


def _short_names(shown: Sequence[ShownMicrograph]) -> list[str]:
    """Return the names without folder and ending, where they differ."""
    short = [PurePath(one.name).stem for one in shown]
    return short if len(set(short)) == len(short) else [one.name for one in shown]


def _entry(one: ShownMicrograph, name: str) -> Entry:
    estimate = one.found.estimate
    remark = "no rings" if estimate.failure else "; ".join(one.concerns)
    return Entry(
        name=name,
        picture=_jpeg(one.found.card),
        values=(
            estimate.max_resolution_angstrom if math.isfinite(estimate.max_resolution_angstrom) else None,
            estimate.lens.defocus_angstrom,
            2 * estimate.lens.half_astigmatism_angstrom,
            estimate.figure_of_merit,
        ),
        remark=remark,
        level="warning" if remark else "plain",
        detail=None if one.found.detail is None else _jpeg(one.found.detail),
        detail_caption=_lens_in_words(estimate),
        lines=_lines(estimate) if one.found.detail is not None else (),
    )


def _lens_in_words(estimate: CtfEstimate) -> str:
    lens = estimate.lens
    phase = f", phase shift {lens.phase_shift_degrees:.1f}°" if lens.phase_shift_degrees else ""
    return (
        f"Defocus {lens.defocus_u_angstrom:.0f} and {lens.defocus_v_angstrom:.0f} Å, the first at "
        f"{lens.angle_degrees:.0f}°{phase}; figure of merit {estimate.figure_of_merit:.2f}; rings to "
        f"{estimate.max_resolution_angstrom:.1f} Å; halves of the directions differ by "
        f"{estimate.defocus_difference_angstrom:.0f} Å."
    )


def _lines(estimate: CtfEstimate) -> tuple[Line, ...]:
    data, model = rings_alone(estimate.profile, estimate.fitted_limits)
    return (
        Line(label="data", x=estimate.profile.s, y=data),
        Line(label="model", x=estimate.profile.s, y=model, style="dashed"),
    )


def _distributions(shown: Sequence[ShownMicrograph], resolution: np.ndarray, defocus: np.ndarray) -> tuple[Block, ...]:
    lenses = [one.found.estimate.lens for one in shown]
    astigmatism = np.array([2 * lens.half_astigmatism_angstrom for lens in lenses])
    vectors = 2 * np.array([[lens.astigmatism_x_angstrom, lens.astigmatism_y_angstrom] for lens in lenses])
    made: list[Block] = [
        Histogram.of(defocus, title="Defocus", x=Axis(label="mean defocus", unit="Å")),
        Histogram.of(
            resolution,
            title="Resolution of the rings",
            x=Axis(label="resolution", unit="Å"),
            marks=(Mark(value=float(np.median(resolution)), label="median"),) if len(resolution) else (),
        ),
        Histogram.of(astigmatism, title="Astigmatism", x=Axis(label="U − V", unit="Å")),
        Scatter(
            title="Astigmatism and its direction",
            points=vectors.reshape(-1, 2),
            x=Axis(label="(U − V) cos 2α", unit="Å"),
            y=Axis(label="(U − V) sin 2α", unit="Å"),
            equal=True,
            caption="One cloud: the lens was stigmated once. Several: it was changed.",
        ),
        Histogram.of(
            np.array([one.found.estimate.figure_of_merit for one in shown]),
            title="Figure of merit",
            x=Axis(label="correlation with what the other half of the directions predicts"),
        ),
    ]
    phases = np.array([lens.phase_shift_degrees for lens in lenses])
    if len(np.unique(phases)) > 1:
        made.append(Histogram.of(phases, title="Phase shift", x=Axis(label="phase shift", unit="°")))
    return tuple(made)


def _table(shown: Sequence[ShownMicrograph]) -> Table:
    rows = [
        (
            one.name,
            round(one.found.estimate.lens.defocus_u_angstrom),
            round(one.found.estimate.lens.defocus_v_angstrom),
            round(one.found.estimate.lens.angle_degrees),
            round(one.found.estimate.lens.phase_shift_degrees, 1),
            round(one.found.estimate.max_resolution_angstrom, 2),
            round(one.found.estimate.figure_of_merit, 3),
            _or_none(one.found.estimate.ice_ring_density),
            _tilt(one.found),
            "; ".join(one.concerns),
        )
        for one in shown
    ]
    return Table(
        title="CTF of each micrograph",
        columns=(
            "micrograph",
            "defocus U (Å)",
            "defocus V (Å)",
            "angle (°)",
            "phase shift (°)",
            "rings to (Å)",
            "figure of merit",
            "ice ring",
            "tilt of the defocus plane (°)",
            "concerns",
        ),
        rows=rows,
    )


def _tilt(found: CtfMicrograph) -> float | None:
    if found.local is None:
        return None
    return round(math.degrees(math.atan(math.hypot(*found.local.slope))), 1)


def _or_none(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def _median(values: np.ndarray, decimals: int) -> float | str:
    return round(float(np.median(values)), decimals) if len(values) else "–"


def _jpeg(data: np.ndarray) -> Picture:
    content = data.tobytes()
    with Image.open(io.BytesIO(content)) as opened:
        return Picture(data=content, media_type="image/jpeg", shape=(opened.height, opened.width))
