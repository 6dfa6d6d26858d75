"""What the page of a picking job shows: picks on micrographs, histograms, counts."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from halfmap.jobs.per_micrograph import Rejected
from halfmap.report.blocks import Axis, Block, Facts, Histogram, Note, Overlay, Report, Section, Table
from halfmap.report.pictures import Picture, micrograph_picture

LARGE_SIDE, SMALL_SIDE = 700, 300
"""Longest sides of pictures of micrographs, in their pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PickedMicrograph:
    """What is kept of a micrograph once it is picked in.

    Parameters
    ----------
    shape : its sides (y, x).
    position_pixel, figure_of_merit, diameter_angstrom : of the picks, shape (n, 2), (n,), (n,).
    threshold : least figure of merit of a pick.
    n_above : number of peaks dropped for their height.
    mask_pixel_size_angstrom : of its mask.
    excluded_reason, excluded_share : what was left out, and its share of the area.
    picture : JPEG of the micrograph, uint8, shape (n,); None where it is not shown.
    class_number, psi_degrees : of the picks, shape (n,); 0 where the picker knows none.
    """

    shape: tuple[int, int]
    position_pixel: np.ndarray
    figure_of_merit: np.ndarray
    diameter_angstrom: np.ndarray
    threshold: float
    n_above: int
    mask_pixel_size_angstrom: float
    excluded_reason: tuple[str, ...]
    excluded_share: tuple[float, ...]
    picture: np.ndarray | None
    class_number: np.ndarray
    psi_degrees: np.ndarray

    def __len__(self) -> int:
        return len(self.figure_of_merit)


def picture(micrograph: Tensor, reason: np.ndarray, side: int) -> np.ndarray:
    """Make a micrograph visible, what is left out tinted.

    Parameters
    ----------
    micrograph : float32, shape (y, x).
    reason : shape (y, x): 0 where usable.
    side : longest side of the picture, in its pixels.

    Returns
    -------
    A JPEG, uint8, shape (n,).
    """
    block = max(1, max(micrograph.shape) // side)
    reduced = torch.nn.functional.avg_pool2d(micrograph[None], block)[0].numpy()
    shown = micrograph_picture(reduced, max_side=side, tinted=reason > 0)
    return np.frombuffer(shown.data, dtype=np.uint8).copy()


def page(title: str, picked: Sequence[tuple[str, PickedMicrograph, float]], rejected: Sequence[Rejected]) -> Report:
    """Return the page of a picking job.

    Parameters
    ----------
    title : of the page.
    picked : name, result and radius of the circles in pixels, of each micrograph.
    rejected : what was set aside.
    """
    counts = np.array([len(one) for _, one, _ in picked])
    merits = np.concatenate([one.figure_of_merit for _, one, _ in picked])
    diameters = np.concatenate([one.diameter_angstrom for _, one, _ in picked])
    excluded = np.array([sum(one.excluded_share) for _, one, _ in picked])
    tiles = [
        ("picks", len(merits)),
        ("micrographs", len(picked)),
        ("picks a micrograph, median", float(np.median(counts))),
        ("area left out", round(100 * float(excluded.mean()), 1), "%"),
        ("set aside", len(rejected)),
    ]
    return Report(
        title=title,
        summary=f"{len(merits)} picks in {len(picked)} micrographs.",
        facts=Facts(facts=tuple(tiles)),
        sections=(
            *_notes(picked, rejected),
            Section(title="Distributions", blocks=_histograms(merits, counts, diameters, picked)),
            Section(
                title="Counts",
                blocks=(
                    Table(
                        title="Picks of each micrograph",
                        columns=(
                            "micrograph",
                            "picks",
                            "mean figure of merit",
                            "threshold",
                            "too strong",
                            "left out (%)",
                            "because of",
                        ),
                        rows=[_row(name, one) for name, one, _ in picked],
                    ),
                ),
            ),
            Section(title="Micrographs", intro=_INTRO, blocks=tuple(_overlays(picked))),
        ),
    )


_INTRO = (
    "The colour of a circle is the pick's figure of merit, red for the lowest, blue for the highest; the slider below "
    "a micrograph hides those below a threshold. Tinted areas were left out: replicated borders, carbon, ice, specks."
)


def _notes(picked: Sequence[tuple[str, PickedMicrograph, float]], rejected: Sequence[Rejected]) -> list[Section]:
    notes = []
    if rejected:
        text = "\n\n".join(["Set aside, listed in rejected.star:", *(f"{one.name}: {one.reason}." for one in rejected)])
        notes.append(Note(text=text, level="warning"))
    empty = [name for name, one, _ in picked if len(one) == 0]
    if empty:
        named = ", ".join(empty[:10]) + (f" and {len(empty) - 10} more" if len(empty) > 10 else "")
        text = f"Nothing stood out of the noise in {len(empty)} of {len(picked)} micrographs: {named}."
        notes.append(Note(text=text, level="warning"))
    return [Section(title="Worth a look", blocks=tuple(notes))] if notes else []


def _overlays(picked: Sequence[tuple[str, PickedMicrograph, float]]) -> list[Block]:
    return [
        Overlay(
            picture=_jpeg(one),
            shape_pixel=one.shape,
            positions_pixel=one.position_pixel,
            radius_pixel=radius,
            values=one.figure_of_merit,
            title=name,
            caption=f"{len(one)} picks above {one.threshold:.2f}.",
        )
        for name, one, radius in picked
        if one.picture is not None
    ]


def _jpeg(one: PickedMicrograph) -> Picture:
    assert one.picture is not None
    data = one.picture.tobytes()
    with Image.open(io.BytesIO(data)) as opened:
        return Picture(data=data, media_type="image/jpeg", shape=(opened.height, opened.width))


def _histograms(
    merits: np.ndarray,
    counts: np.ndarray,
    diameters: np.ndarray,
    picked: Sequence[tuple[str, PickedMicrograph, float]],
) -> tuple[Block, ...]:
    thresholds = np.array([one.threshold for _, one, _ in picked])
    made = [
        Histogram.of(
            merits,
            title="Figure of merit",
            x=Axis(label="figure of merit"),
            caption="A second hump at the left: noise; at the right: aggregates or ice. Move the thresholds.",
        ),
        Histogram.of(counts, title="Picks a micrograph", x=Axis(label="picks")),
    ]
    # pickers that know one size or take one threshold have nothing to tell of them
    if len(np.unique(diameters)) > 1:
        made.append(Histogram.of(diameters, title="Diameter that fits best", x=Axis(label="diameter", unit="Å")))
    if len(np.unique(thresholds)) > 1:
        made.append(Histogram.of(thresholds, title="Threshold of each micrograph", x=Axis(label="figure of merit")))
    return tuple(made)


def _row(name: str, one: PickedMicrograph) -> tuple[str | int | float | None, ...]:
    return (
        name,
        len(one),
        round(float(one.figure_of_merit.mean()), 3) if len(one) else None,
        round(one.threshold, 3),
        one.n_above,
        round(100 * sum(one.excluded_share), 1),
        ", ".join(one.excluded_reason),
    )
