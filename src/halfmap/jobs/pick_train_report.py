"""The page of ``halfmap pick train``: how a detector learned, and how far it can be believed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from halfmap.learning.measures import calibration
from halfmap.picking.network.card import Detector
from halfmap.picking.network.detect import candidates
from halfmap.picking.network.examples import LabelledMicrograph
from halfmap.picking.network.model import score
from halfmap.picking.network.params import DetectorTrainingParams
from halfmap.picking.network.preparation import DIAMETER_PIXEL
from halfmap.picking.network.training import TrainedDetector, TrainingState
from halfmap.report.blocks import Axis, Block, Curve, Facts, Histogram, Line, Mark, Overlay, Report, Section

_SHOWN = 3
_LEAST_SHOWN = -3.0


def running_page(params: DetectorTrainingParams, state: TrainingState) -> Report:
    """Return the page of a training between two epochs."""
    n = len(state.average_precision)
    return Report(
        title="Network training",
        summary=f"{n} of {params.epochs} epochs are done.",
        status="running",
        level="plain",
        facts=Facts(facts=(("best average precision so far", round(float(state.average_precision.max()), 3)),)),
        sections=(Section(title="Learning", blocks=learning(state.fit.losses, state.average_precision)),),
    )


def page(
    params: DetectorTrainingParams,
    detector: Detector,
    trained: TrainedDetector,
    taught: Sequence[LabelledMicrograph],
    held_out: Sequence[LabelledMicrograph],
) -> Report:
    """Return the page of a finished training."""
    card = detector.card
    return Report(
        title="Network training",
        summary=f"Learned from {card.n_labels} particles in {len(taught)} micrographs, judged by "
        f"{card.n_held_out_labels} in {len(held_out)} held out. What has no label counts as wrong there, so precision "
        "is a lower bound.",
        facts=Facts(
            facts=(
                ("average precision, held out", round(card.average_precision, 3)),
                ("precision at figure of merit 0", _rounded(card.precision_at_even_odds)),
                ("recall at figure of merit 0", _rounded(card.recall_at_even_odds)),
                ("particles with a label", round(100 * card.labelled_share), "%"),
                ("best epoch", card.best_epoch),
            )
        ),
        sections=(
            Section(title="Learning", blocks=learning(trained.losses, trained.average_precision, trained.best_epoch)),
            Section(title="How far the figure of merit can be believed", blocks=_belief(trained)),
            Section(
                title="Held-out micrographs",
                blocks=_pictures(params, detector, held_out),
                intro="As the network sees them. Colour: figure of merit; circles below 0 are less likely than not.",
            ),
        ),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def learning(
    losses: NDArray[np.float64], average_precision: NDArray[np.float64], best_epoch: int | None = None
) -> tuple[Block, ...]:
    """Draw loss and average precision of each epoch.

    Parameters
    ----------
    losses, average_precision : of each epoch.
    best_epoch : whose weights were kept, from 1.
    """
    epochs = np.arange(1, len(losses) + 1)
    marks = () if best_epoch is None else (Mark(value=best_epoch, label="kept"),)
    return (
        Curve(
            title="Loss",
            lines=(Line(label="training micrographs", x=epochs, y=losses),),
            x=Axis(label="epoch"),
            y=Axis(label="mean loss"),
            marks=marks,
        ),
        Curve(
            title="Average precision",
            lines=(Line(label="held-out micrographs", x=epochs, y=average_precision),),
            x=Axis(label="epoch"),
            y=Axis(label="average precision", limits=(None, 1.0)),
            marks=marks,
        ),
    )


def _belief(trained: TrainedDetector) -> tuple[Block, ...]:
    judged, curve = trained.judged, trained.judged.curve
    share = trained.calibration.labelled_share
    probability = share / (1 + np.exp(-np.clip(judged.score, -50, 50)))
    found = calibration(probability, judged.is_labelled)
    chance = np.linspace(0.0, 1.0, 2)
    shown = np.minimum(judged.score, 8.0)
    return (
        Curve(
            title="Precision and recall",
            lines=(Line(label="held-out micrographs", x=curve.recall, y=curve.precision),),
            x=Axis(label="recall", limits=(0.0, 1.0)),
            y=Axis(label="precision", limits=(0.0, 1.0)),
        ),
        Curve(
            title="Reliability",
            lines=(
                Line(label="held-out micrographs", x=found.predicted, y=found.observed, style="points"),
                Line(label="as it should be", x=chance, y=chance, style="dotted"),
            ),
            x=Axis(label="expected share of labelled peaks", limits=(0.0, 1.0)),
            y=Axis(label="observed share", limits=(0.0, 1.0)),
            caption=f"Of the particles {100 * share:.0f} % have a label, as the calibration finds it. Error "
            f"{found.expected_error:.3f}.",
        ),
        Histogram.of(
            {"labelled": shown[judged.is_labelled], "others": shown[~judged.is_labelled]},
            title="Figures of merit of the peaks",
            x=Axis(label="figure of merit", limits=(-8.0, 8.0)),
            bins=32,
            marks=(Mark(value=0.0, label="even odds"),),
            caption="Peaks below -8, most of them noise, are not shown.",
        ),
    )


def _pictures(
    params: DetectorTrainingParams, detector: Detector, held_out: Sequence[LabelledMicrograph]
) -> tuple[Block, ...]:
    shown = []
    network = detector.network
    for one in held_out[:_SHOWN]:
        odds = network.slope * score(network, one.values) + network.shift
        peaks = candidates(odds, one.pickable)
        peaks = peaks.take(peaks.height >= _LEAST_SHOWN)
        shown.append(
            Overlay.of(
                one.values.numpy(),
                peaks.position,
                radius_pixel=DIAMETER_PIXEL / 2,
                values=peaks.height,
                title=one.name,
                caption=f"{int((peaks.height >= 0).sum())} of figure of merit 0 or more, "
                f"{len(one.position_pixel)} labels; a circle is {params.diameter_angstrom:g} Å wide.",
            )
        )
    return tuple(shown)
