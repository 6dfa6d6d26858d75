"""``halfmap train class-ranker``: make the network that scores class averages."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from halfmap.classification.ranking.structures import (
    HELD_OUT_SPECIMENS,
    TRAINING_SPECIMENS,
    check_training_structure,
)
from halfmap.errors import InconsistentDataError
from halfmap.learning.params import TrainingParams
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from halfmap.classification.ranking.labels import Examples
    from halfmap.compute.broadcast import Broadcast
    from halfmap.jobs.class_ranker_report import Trained
    from halfmap.jobs.class_ranker_stacks import Structure

WEIGHTS, CARD, EXAMPLES = "weights.safetensors", "card.json", "examples.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainClassRankerParams(TrainingParams):
    """What the ranker learns from, and how."""

    model: tuple[Path, ...] = ()
    """Atomic model to learn from, PDB or mmCIF, beside the built-in specimens; repeat it for several."""

    map: tuple[Path, ...] = ()
    """Map to learn from, density positive; repeat it for several."""

    held_out_model: tuple[Path, ...] = ()
    """Atomic model that judges the ranker and does not teach it; repeat it for several."""

    held_out_map: tuple[Path, ...] = ()
    """Map that judges the ranker and does not teach it; repeat it for several."""

    structures: Annotated[int, Ge(2)] = len(TRAINING_SPECIMENS)
    """Built-in specimens to learn from, evenly chosen from the list."""

    held_out: Annotated[int, Ge(1)] = len(HELD_OUT_SPECIMENS)
    """Built-in specimens that judge, evenly chosen from their list."""

    stacks: Annotated[int, Ge(1)] = 3
    """Stacks of each pair of structures: of the first, of the second, of both, and again."""

    particles: Annotated[int, Ge(50)] = 700
    """Most particles of a stack; it has half of them at least."""

    iterations: Annotated[int, Ge(1)] = 10
    """Most iterations of a stack's classification."""

    folds: Annotated[int, Ge(2)] = 5
    """Parts of the training structures; each is scored by a network that learned from the others, to calibrate."""

    examples: Path | None = None
    """Examples of an earlier run, instead of making new ones."""

    @property
    def of_stacks(self) -> dict[str, int]:
        """What all groups of stacks have in common."""
        return {
            "n_stacks": self.stacks,
            "most_particles": self.particles,
            "most_iterations": self.iterations,
            "seed": self.seed,
        }


def run(context: JobContext, params: TrainClassRankerParams) -> Path:
    """Train, and return the path of ``weights.safetensors``.

    Raises
    ------
    InputError
        A structure to learn from is one that must not be.
    InconsistentDataError
        There are too few structures, or classes of one kind only.
    """
    from halfmap.io import atomic, states
    from halfmap.jobs.class_ranker_report import page

    taught, judged, everything = _examples(context, params)
    states.save(context.folder / EXAMPLES, everything)
    trained = _trained(context, params, taught, judged)
    output = context.folder / WEIGHTS
    with atomic.replacing(output) as temporary:
        temporary.write_bytes(trained.weights)
    atomic.write_text(context.folder / CARD, trained.card_text())
    context.report(page(trained))
    figures = trained.held_out
    context.progress.message(
        f"{len(taught)} classes learned from, {len(judged)} held out: area under the curve {figures.auc_pure:.3f} for "
        f"purity, {figures.auc_good:.3f} for good classes, calibration error "
        f"{figures.expected_calibration_error:.3f}; without a network {figures.fallback_auc_pure:.3f}."
    )
    return output


def _examples(context: JobContext, params: TrainClassRankerParams) -> "tuple[Examples, Examples, Examples]":
    """Return the examples to learn from, those to be judged by, and all that there are."""
    import numpy as np

    from halfmap.classification.ranking.labels import Examples
    from halfmap.io import states
    from halfmap.jobs.class_ranker_stacks import examples_of, groups_of

    training = _structures(TRAINING_SPECIMENS, params.structures, params.model, params.map)
    judges = _structures(HELD_OUT_SPECIMENS, params.held_out, params.held_out_model, params.held_out_map)
    for structure in training:
        check_training_structure(structure.name)
    if params.examples is None:
        groups = groups_of(training, **params.of_stacks)
        groups += groups_of(judges, **params.of_stacks, first=len(groups))
        label = "Simulating and classifying stacks"
        known = Examples.joined(list(context.executor.map(examples_of, groups, progress=context.progress, label=label)))
    else:
        known = states.load(params.examples, Examples)
    names_of_judges = {structure.name for structure in judges}
    shows_judge = np.array([bool(set(names.split(", ")) & names_of_judges) for names in known.structures])
    is_judge = np.isin(known.group, known.group[shows_judge])
    taught, judged = known.take(~is_judge), known.take(is_judge & known.is_sure)
    for name in {name for names in taught.structures for name in names.split(", ")}:
        check_training_structure(name)
    for kind, some in (("learn from", taught), ("be judged by", judged)):
        if not 0 < some.is_good.sum() < len(some):
            raise InconsistentDataError(
                f"The classes to {kind} must be good ones and others; got {int(some.is_good.sum())} good ones of "
                f"{len(some)}; raise --structures, --stacks or --particles."
            )
    return taught, judged, known


def _trained(context: JobContext, params: TrainClassRankerParams, taught: "Examples", judged: "Examples") -> "Trained":
    """Fit a network to each fold and one to all, and calibrate that by what the others say of their folds."""
    import numpy as np

    from halfmap.classification.ranking import fitting
    from halfmap.classification.ranking.scores import fallback_of, probability
    from halfmap.jobs.class_ranker_report import Trained

    fold = fitting.folds_of(taught, params.folds, params.seed)
    handle = context.executor.broadcast((taught, fold, params))
    work = [(handle, number) for number in (*range(params.folds), None)]
    fits = list(context.executor.map(_fitted, work, progress=context.progress, label="Fitting networks"))
    raw = np.empty(len(taught))
    for number, (_, _, odds) in enumerate(fits[:-1]):
        raw[fold == number] = odds
    network = fitting.from_bytes(fits[-1][0])
    raw, sure = raw[taught.is_sure], taught.take(taught.is_sure)
    fitting.calibrate(network, raw, sure.is_good)
    return Trained(
        params=params,
        taught=sure,
        judged=judged,
        taught_score=probability(float(network.slope) * raw + float(network.shift)),
        judged_score=probability(fitting.log_odds(network, judged.images, judged.features)),
        taught_fallback=fallback_of(sure.features),
        judged_fallback=fallback_of(judged.features),
        losses=np.stack([each[1] for each in fits]),
        weights=fitting.to_bytes(network),
        command=context.command,
    )


def _structures(
    specimens: tuple[str, ...], n: int, models: tuple[Path, ...], maps: tuple[Path, ...]
) -> "list[Structure]":
    from halfmap.jobs.class_ranker_stacks import Structure

    n = min(n, len(specimens))
    chosen = [specimens[number * len(specimens) // n] for number in range(n)]
    return [
        *(Structure(name=name) for name in chosen),
        *(Structure(name=path.stem, path=path) for path in models),
        *(Structure(name=path.stem, path=path, is_map=True) for path in maps),
    ]


def _fitted(work: "tuple[Broadcast, int | None]") -> "tuple[bytes, Any, Any]":
    """Fit a network to all folds but one, or to all: a task.

    Returns
    -------
    Its weights, its losses, and its raw log odds of the fold left out.
    """
    import numpy as np

    from halfmap.classification.ranking import fitting

    handle, left_out = work
    taught, fold, params = handle.load()
    network, losses = fitting.fit_ranker(taught.take(fold != left_out) if left_out is not None else taught, params)
    rest = taught.take(fold == left_out) if left_out is not None else taught.take(np.zeros(0, dtype=np.int64))
    return fitting.to_bytes(network), losses, fitting.log_odds(network, rest.images, rest.features)


JOB = JobType(
    command="train class-ranker",
    folder="Train",
    parameters=TrainClassRankerParams,
    run=run,
    summary="Train the network that scores class averages",
    inputs=("model", "map", "held_out_model", "held_out_map", "examples"),
)
