"""The card and the page of a trained class ranker."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.classification.ranking import fitting
from halfmap.classification.ranking.features import FEATURES
from halfmap.classification.ranking.judgement import Judgement, judge
from halfmap.classification.ranking.labels import LEAST_FRC, LEAST_PARTICLES, LEAST_PURITY, Examples
from halfmap.classification.ranking.scores import FALLBACK, FALLBACK_CONSTANT, fallback_columns
from halfmap.learning.measures import calibration, receiver_curve
from halfmap.learning.params import TrainingParams
from halfmap.report.blocks import (
    Axis,
    Block,
    Curve,
    Facts,
    Gallery,
    Histogram,
    Line,
    Mark,
    Note,
    Report,
    Section,
    Table,
)

_SHOWN = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A trained ranker and what is known of it.

    Parameters
    ----------
    params : of the job.
    taught, judged : examples it learned from, and those it was judged by; of both those large enough to judge by.
    taught_score, judged_score : scores of both; those of the former by networks that had not seen the structure.
    taught_fallback, judged_fallback : scores without a network.
    losses : shape (folds + 1, epochs), the last row of the network itself.
    weights : bytes of its file.
    command : that made it.
    """

    params: TrainingParams
    taught: Examples
    judged: Examples
    taught_score: NDArray[np.float64]
    judged_score: NDArray[np.float64]
    taught_fallback: NDArray[np.float64]
    judged_fallback: NDArray[np.float64]
    losses: NDArray[np.float64]
    weights: bytes
    command: str

    @functools.cached_property
    def held_out(self) -> Judgement:
        """Figures on the held-out structures."""
        return judge(self.judged, self.judged_score, self.judged_fallback)

    @functools.cached_property
    def cross_validated(self) -> Judgement:
        """Figures on the training structures, each scored by a network that has not seen it."""
        return judge(self.taught, self.taught_score, self.taught_fallback)

    @functools.cached_property
    def of_structures(self) -> dict[str, Judgement]:
        """Figures of each held-out structure or mixture."""
        return {
            name: judge(self.judged.take(mine), self.judged_score[mine], self.judged_fallback[mine])
            for name in sorted(set(self.judged.structures))
            if (mine := self.judged.structures == name).any()
        }

    @functools.cached_property
    def fitted_fallback(self) -> NDArray[np.float64]:
        """Weights that a logistic regression gives the features of the score without a network, the constant last."""
        return fitting.logistic(fallback_columns(self.taught.features), self.taught.is_good)

    def card_text(self) -> str:
        """Return the model card as JSON."""
        content = {
            "name": "halfmap class ranker",
            "halfmap": importlib.metadata.version("halfmap"),
            "command": re.sub(r"(?<=\s)\S*/(?=\S)", "", self.command),  # names of files, not where they lay
            "seed": self.params.seed,
            "sha256": hashlib.sha256(self.weights).hexdigest(),
            "meaning": f"probability that more than {LEAST_PURITY:g} of a class are whole, centred particles of one "
            f"structure and that its average correlates with a true projection to {LEAST_FRC:g} or more",
            "training_structures": _names(self.taught),
            "held_out_structures": _names(self.judged),
            "least_particles": LEAST_PARTICLES,
            "features": FEATURES,
            "held_out": dataclasses.asdict(self.held_out),
            "cross_validated": dataclasses.asdict(self.cross_validated),
            "fallback": [name for name, _, _ in FALLBACK],
        }
        return json.dumps(_without_nan(content), indent=2, ensure_ascii=False) + "\n"


def page(trained: Trained) -> Report:
    """Return the job's page."""
    held = trained.held_out
    return Report(
        title="Class ranker",
        summary=f"Learned from {len(trained.taught)} class averages of {len(_names(trained.taught))} structures; "
        f"judged by {held.n_classes} of {len(_names(trained.judged))} others. Both numbers, and all figures, are of "
        f"classes of {LEAST_PARTICLES} particles or more.",
        facts=Facts(
            facts=(
                ("area under the curve, purity above ½", round(held.auc_pure, 3)),
                ("the same, good classes", round(held.auc_good, 3)),
                ("expected calibration error", round(held.expected_calibration_error, 3)),
                ("right at threshold ½", round(held.right_at_half, 3)),
                ("without a network, purity above ½", round(held.fallback_auc_pure, 3)),
                ("weights", round(len(trained.weights) / 1024), "kB"),
            )
        ),
        sections=(
            Section(title="How far the score can be believed", blocks=_belief(trained)),
            Section(
                title="Held-out structures",
                blocks=_galleries(trained.judged, trained.judged_score),
                intro="Below each picture: score, purity, FRC to the nearest true projection, particles.",
            ),
            Section(title="Structures", blocks=_structures(trained)),
            Section(title="Learning", blocks=_learning(trained)),
        ),
    )


def _belief(trained: Trained) -> tuple[Block, ...]:
    chance = np.linspace(0.0, 1.0, 2)
    seen = {
        "held-out structures": (trained.judged, trained.judged_score),
        "training structures, each unseen by its network": (trained.taught, trained.taught_score),
    }
    measured = {label: calibration(score, some.is_good) for label, (some, score) in seen.items()}
    share = Axis(label="share of good classes", limits=(0.0, 1.0))
    receivers = [
        ("network, purity above ½", trained.judged_score, trained.judged.is_pure),
        ("network, good classes", trained.judged_score, trained.judged.is_good),
        ("without a network, purity above ½", trained.judged_fallback, trained.judged.is_pure),
    ]
    curves = [(label, receiver_curve(score, kind)) for label, score, kind in receivers]
    return (
        Curve(
            title="Calibration",
            lines=(
                *(
                    Line(label=label, x=found.predicted, y=found.observed, style="points" if number else "line")
                    for number, (label, found) in enumerate(measured.items())
                ),
                Line(label="as it should be", x=chance, y=chance, style="dotted"),
            ),
            x=Axis(label="score", limits=(0.0, 1.0)),
            y=share,
            caption="; ".join(f"{label}: error {found.expected_error:.3f}" for label, found in measured.items()) + ".",
        ),
        Curve(
            title="Receiver's curve, held-out structures",
            lines=tuple(
                Line(label=f"{label} ({curve.area:.3f})", x=curve.false_positive_rate, y=curve.true_positive_rate)
                for label, curve in curves
            ),
            x=Axis(label="share of others taken", limits=(0.0, 1.0)),
            y=Axis(label="share found", limits=(0.0, 1.0)),
        ),
        Histogram.of(
            {
                "good": trained.judged_score[trained.judged.is_good],
                "others": trained.judged_score[~trained.judged.is_good],
            },
            title="Scores, held-out structures",
            x=Axis(label="score", limits=(0.0, 1.0)),
            bins=20,
            marks=(Mark(value=0.5, label="½"),),
        ),
    )


def _galleries(examples: Examples, score: NDArray[np.float64]) -> tuple[Block, ...]:
    wrong = np.abs(score - examples.is_good)
    chosen = {
        "Highest scores": np.argsort(-score, kind="stable")[:_SHOWN],
        "Lowest scores": np.argsort(score, kind="stable")[:_SHOWN],
        "Most wrong": np.argsort(-wrong, kind="stable")[:_SHOWN],
    }
    return tuple(
        Gallery.of(
            examples.images[rows],
            [
                f"{score[row]:.2f} · {examples.purity[row]:.2f} · {examples.frc[row]:.2f} · {examples.n_particles[row]}"
                for row in rows
            ],
            title=title,
            tile_pixel=110,
        )
        for title, rows in chosen.items()
    )


def _structures(trained: Trained) -> tuple[Block, ...]:
    columns = ("structure", "classes", "pure", "good", "AUC pure", "AUC good", "right at ½", "AUC pure, no network")
    rows = [
        (
            name,
            found.n_classes,
            found.n_pure,
            found.n_good,
            *(
                None if math.isnan(value) else round(value, 3)
                for value in (found.auc_pure, found.auc_good, found.right_at_half, found.fallback_auc_pure)
            ),
        )
        for name, found in (
            ("all held-out", trained.held_out),
            *trained.of_structures.items(),
            ("training, cross-validated", trained.cross_validated),
        )
    ]
    return (
        Table(title="Figures", columns=columns, rows=rows, caption="Empty where all classes are of one kind."),
        Note(text="Learned from: " + ", ".join(_names(trained.taught)) + "."),
    )


def _learning(trained: Trained) -> tuple[Block, ...]:
    epochs = np.arange(1, trained.losses.shape[1] + 1)
    labels = [*(f"without fold {number + 1}" for number in range(len(trained.losses) - 1)), "all"]
    names = [*(name for name, _, _ in FALLBACK), "constant"]
    used = [*(weight for _, weight, _ in FALLBACK), FALLBACK_CONSTANT]
    return (
        Curve(
            title="Loss",
            lines=tuple(Line(label=label, x=epochs, y=y) for label, y in zip(labels, trained.losses, strict=True)),
            x=Axis(label="epoch"),
            y=Axis(label="mean loss"),
        ),
        Histogram.of(
            {
                "training": trained.taught.purity,
                "held out": trained.judged.purity,
            },
            title="Purity of the classes",
            x=Axis(label="share of centred particles of one structure", limits=(0.0, 1.0)),
            bins=20,
            marks=(Mark(value=LEAST_PURITY),),
        ),
        Table(
            title="The score without a network",
            columns=("feature", "weight used", "weight fitted to these examples"),
            rows=[
                (name, weight, round(float(fitted), 3))
                for name, weight, fitted in zip(names, used, trained.fitted_fallback, strict=True)
            ],
        ),
    )


def _names(examples: Examples) -> list[str]:
    return sorted({name for names in examples.structures for name in names.split(", ")})


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
