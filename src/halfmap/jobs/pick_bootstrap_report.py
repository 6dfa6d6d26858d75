"""The page of ``halfmap pick bootstrap``: its steps, what was learned from, and what the network finds with it."""

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from halfmap.data.class_averages import ClassRun
from halfmap.data.picks import Picks
from halfmap.io import relion, states
from halfmap.io.images import read_micrograph
from halfmap.io.relion_classes import read_class_run
from halfmap.io.relion_picks import read_autopick
from halfmap.jobs.pick_bootstrap import (
    ALL_EXTRACTED,
    BLOBS,
    CLASSIFIED,
    EXTRACTED,
    PICKED,
    SELECTED,
    SPLIT,
    TAUGHT,
    PickBootstrapParams,
)
from halfmap.jobs.pick_train import CARD
from halfmap.jobs.pick_train_report import learning
from halfmap.picking.agreement import matched
from halfmap.picking.network.training import TrainingState
from halfmap.project.job import JobContext, JobResult
from halfmap.report.blocks import (
    Axis,
    Block,
    Fact,
    Facts,
    Gallery,
    Histogram,
    Mark,
    Note,
    Overlay,
    Report,
    Section,
    Table,
)

_LIKELY = 0.0  # figure of merit from which a pick is more likely a particle than not
_MOST_CLASSES_SHOWN = 40
_COMMANDS = {
    SPLIT: "select split",
    BLOBS: "pick log",
    EXTRACTED: "extract",
    CLASSIFIED: "class2d",
    SELECTED: "select classes",
    TAUGHT: "pick train",
    PICKED: "pick network",
    ALL_EXTRACTED: "extract",
}
_KINDS = ("both", "blobs alone", "network alone")


def page(
    context: JobContext, params: PickBootstrapParams, done: Mapping[str, JobResult], *, is_finished: bool
) -> Report:
    """Return the page, with what the steps done so far have left.

    Parameters
    ----------
    context, params : of the
    done : result of each step by its folder.
    is_finished : whether they are all.
    """
    found = _Found(context, params, done)
    return Report(
        title="From blobs to a network's picks",
        summary=found.summary(),
        status="" if is_finished else "running",
        level="good" if is_finished else "plain",
        facts=Facts(facts=found.facts()),
        sections=(
            *found.comparison(),
            *found.classes(),
            *found.learning(),
            *found.all_picks(),
            Section(
                title="Steps",
                blocks=(found.steps(),),
                intro="Each step is a job with a page of its own, which the first column opens.",
            ),
            *((Section(title="Go on from here", blocks=(found.next_steps(),)),) if is_finished else ()),
        ),
    )


class _Found:
    """What the steps have left, read once."""

    def __init__(self, context: JobContext, params: PickBootstrapParams, done: Mapping[str, JobResult]) -> None:
        self.context, self.params, self.done = context, params, done
        self.said: dict[str, str] = {}
        self.split = relion.read_micrographs(done[SPLIT].main_output)
        self.pixel_size = float(self.split.optics["micrograph_pixel_size_angstrom"][0])
        self.said[SPLIT] = f"{len(self.split)} micrographs to learn from, drawn at random"
        self.blobs = self._picks(BLOBS)
        self.network = self._picks(PICKED)
        self.run = self._class_run()
        self.kept = self._kept()
        self.best_epoch, self.average_precision = self._card()
        for folder in (EXTRACTED, ALL_EXTRACTED):
            if folder in done:
                images = relion.read_particles(done[folder].main_output)
                optics = images.optics
                self.said[folder] = (
                    f"{len(images)} images of {optics['image_size_pixel'][0]} px of "
                    f"{optics['pixel_size_angstrom'][0]:.3g} Å"
                )

    def summary(self) -> str:
        """Say in a sentence or two what came out."""
        if self.network is None or self.run is None or self.kept is None:
            return f"{len(self.done)} steps are done."
        n_likely = int((self.network.figure_of_merit >= _LIKELY).sum())
        return (
            f"A network learned from {int(self.kept.sum())} particles, which 2D classification chose among "
            f"{len(self.kept)} blobs in {len(self.split)} micrographs, and picked all "
            f"{len(self.network.micrographs)}: {n_likely} picks are more likely particles than not."
        )

    def facts(self) -> tuple[Fact, ...]:
        """Return the numbers that matter."""
        made = []
        if self.network is not None:
            merits = self.network.figure_of_merit
            made += [
                Fact(
                    label="particles",
                    value=int((merits >= _LIKELY).sum()),
                    note=f"figure of merit {_LIKELY:g} or more; {len(merits)} picks in all",
                ),
                Fact(label="micrographs", value=len(self.network.micrographs)),
            ]
        if self.average_precision is not None:
            made.append(
                Fact(
                    label="average precision",
                    value=round(self.average_precision, 3),
                    note="on held-out micrographs, what has no label counted as wrong",
                )
            )
        if self.run is not None and self.kept is not None:
            made.append(Fact(label="learned from", value=int(self.kept.sum()), note=f"of {len(self.kept)} blobs"))
        elif self.blobs is not None:
            made.append(Fact(label="blobs", value=len(self.blobs), note=f"in {len(self.split)} micrographs"))
        return tuple(made)

    def comparison(self) -> tuple[Section, ...]:
        """Show blobs and the network's picks on the micrograph where they differ most."""
        if self.blobs is None:
            return ()
        radius = self.params.diameter_angstrom / 2 / self.pixel_size
        if self.network is None:
            by_number = {len(rows): name for name, rows in self.blobs.by_micrograph().items()}
            name = by_number[max(by_number)]
            return (Section(title="Blobs", blocks=(self._overlay(name, self.blobs.in_micrograph(name), radius),)),)
        together = {name: _together(self.blobs, self.network, name, radius / 2) for name in self.blobs.micrographs}
        name = max(together, key=lambda one: int((together[one][1] > 0).sum()))
        positions, kinds, merits = together[name]
        totals = np.sum([np.bincount(kind, minlength=len(_KINDS)) for _, kind, _ in together.values()], axis=0)
        overlay = Overlay.of(
            read_micrograph(self.context.resolve(name)),
            positions,
            radius_pixel=radius,
            values=merits,
            kind_labels=_KINDS,
            kinds=kinds,
            title=name,
            caption=f"In all {len(together)} micrographs that the network learned from, {totals[0]} are found by both, "
            f"{totals[1]} by blobs alone and {totals[2]} by the network alone. The slider hides picks of the network "
            "below a figure of merit.",
        )
        return (
            Section(
                title="Blobs and network",
                blocks=(overlay, *self._unseen(radius)),
                intro="First the micrograph on which the two differ most. Good: what only blobs found is ice, edges "
                "and junk, what only the network found are particles.",
            ),
        )

    def _unseen(self, radius: float) -> tuple[Block, ...]:
        """Show the picks in a micrograph that the network has not seen."""
        assert self.network is not None
        seen = set(self.blobs.micrographs) if self.blobs is not None else set()
        unseen = [name for name in self.network.micrographs if name not in seen]
        if not unseen:
            return ()
        name = unseen[len(unseen) // 2]
        return (self._overlay(name, self.network.in_micrograph(name), radius, " The network has not learned from it."),)

    def _overlay(self, name: str, picks: Picks, radius: float, remark: str = "") -> Overlay:
        return Overlay.of(
            read_micrograph(self.context.resolve(name)),
            picks.position_pixel,
            radius_pixel=radius,
            values=picks.figure_of_merit,
            title=name,
            caption=f"{len(picks)} picks.{remark}",
        )

    def classes(self) -> tuple[Section, ...]:
        """Show the class averages, those learned from first."""
        if self.run is None:
            return ()
        averages, number = self.run.averages, self.run.particles["class_number"]
        galleries = []
        parts = (("Classes", None),) if self.kept is None else (("Learned from", True), ("Left out", False))
        for title, wanted in parts:
            rows, captions = [], []
            for row in np.argsort(-averages["n_particles"], kind="stable"):
                mine = number == averages["class_number"][row]
                if not mine.any() or (self.kept is not None and bool(self.kept[mine].any()) != wanted):
                    continue
                rows.append(row)
                captions.append(f"{averages['class_number'][row]}: {mine.sum()}, score {averages['score'][row]:.2f}")
            if rows:
                hidden = f" The largest {_MOST_CLASSES_SHOWN} of {len(rows)}." * (len(rows) > _MOST_CLASSES_SHOWN)
                galleries.append(
                    Gallery.of(
                        averages["average"][rows[:_MOST_CLASSES_SHOWN]],
                        captions[:_MOST_CLASSES_SHOWN],
                        title=title,
                        caption=f"Number, particles, score of the class ranker.{hidden}",
                        percentiles=(0.5, 99.8),
                    )
                )
        return (Section(title="Classes", blocks=tuple(galleries)),)

    def learning(self) -> tuple[Section, ...]:
        """Show how the network learned."""
        kept = () if TAUGHT not in self.done else self.done[TAUGHT].folder.glob("state/pick_train_*.safetensors")
        newest = max(kept, default=None)
        if newest is None:
            return ()
        state = states.load(newest, TrainingState)
        blocks = learning(state.fit.losses, state.average_precision, self.best_epoch)
        return (Section(title="Learning", blocks=blocks),)

    def all_picks(self) -> tuple[Section, ...]:
        """Show how many picks there are, and of what figure of merit."""
        if self.network is None:
            return ()
        likely = self.network.figure_of_merit >= _LIKELY
        counts = [int(likely[rows].sum()) for rows in self.network.by_micrograph().values()]
        blocks = (
            Histogram.of(
                self.network.figure_of_merit,
                title="Figure of merit",
                x=Axis(label="figure of merit"),
                marks=(Mark(value=_LIKELY, label="even odds"),),
            ),
            Histogram.of(
                counts,
                title="Particles a micrograph",
                x=Axis(label=f"picks of figure of merit {_LIKELY:g} or more"),
            ),
        )
        return (Section(title="Picks in all micrographs", blocks=blocks),)

    def steps(self) -> Table:
        """List the steps, each leading to its page."""
        folders = [folder for folder in _COMMANDS if folder in self.done]
        return Table(
            columns=("step", "command", "what came out"),
            rows=[(folder, f"halfmap {_COMMANDS[folder]}", self.said[folder]) for folder in folders],
            addresses=[f"{folder}/report.html" for folder in folders],
        )

    def next_steps(self) -> Note:
        """Say what to type next."""
        job, micrographs = (self.context.relative(path) for path in (self.context.folder, self.params.micrographs))
        box, side = self.params.box_pixel(self.pixel_size), self.params.rescale_pixel(self.pixel_size)
        mask = f"{self.params.mask_diameter_angstrom:g}"
        rescale = f" --rescale {side}" if side < box else ""
        return Note(
            text=f"Extract what is likely a particle: halfmap extract {micrographs} --picks {job} "
            f"--min-fom {_LIKELY:g} --box {box}{rescale} --background-diameter {mask}. --min-fom -3 takes in more, and "
            "leaves it to a classification to sort it out.\n\n"
            f"Pick micrographs to come with the same network: halfmap pick network micrographs_ctf.star --model "
            f"{job} --diameter {self.params.diameter_angstrom:g}."
        )

    def _picks(self, folder: str) -> Picks | None:
        if folder not in self.done:
            return None
        picks = read_autopick(self.done[folder].main_output, self.context.project)
        median = np.median([len(rows) for rows in picks.by_micrograph().values()])
        n_likely = int((picks.figure_of_merit >= _LIKELY).sum())
        self.said[folder] = f"{len(picks)} picks in {len(picks.micrographs)} micrographs, the median {median:g}" + (
            f"; {n_likely} of figure of merit {_LIKELY:g} or more" if folder == PICKED else ""
        )
        return picks

    def _class_run(self) -> ClassRun | None:
        if CLASSIFIED not in self.done:
            return None
        run = read_class_run(self.done[CLASSIFIED].folder, project=self.context.project)
        self.said[CLASSIFIED] = f"{len(run.averages)} classes of {len(run.particles)} particles"
        return run

    def _kept(self) -> NDArray[np.bool_] | None:
        """Return which particles of the classification were selected."""
        if SELECTED not in self.done or self.run is None:
            return None
        particles = self.run.particles
        kept = np.isin(particles.uid, relion.read_particles(self.done[SELECTED].main_output).uid)
        n_classes = len(np.unique(particles["class_number"][kept]))
        self.said[SELECTED] = f"{kept.sum()} of {len(kept)} particles, from {n_classes} classes"
        return kept

    def _card(self) -> tuple[int | None, float | None]:
        """Return the best epoch and the average precision of the training."""
        if TAUGHT not in self.done:
            return None, None
        card = json.loads((self.done[TAUGHT].folder / CARD).read_text(encoding="utf-8"))
        best_epoch, precision = int(card["best_epoch"]), float(card["average_precision"])
        self.said[TAUGHT] = f"average precision {precision:.3f} on held-out micrographs after {best_epoch} epochs"
        return best_epoch, precision


def _together(
    blobs: Picks, network: Picks, name: str, distance: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Return positions found by either in a micrograph, which of `_KINDS` each is, and figures of merit."""
    first, second = blobs.in_micrograph(name), network.in_micrograph(name)
    mine, theirs = matched(first.position_pixel, second.position_pixel, distance=distance)
    alone = np.setdiff1d(np.arange(len(first)), mine)
    added = np.setdiff1d(np.arange(len(second)), theirs)
    order = np.concatenate([theirs, added])
    positions = np.concatenate([first.position_pixel[alone], second.position_pixel[order]])
    kinds = np.repeat([1, 0, 2], [len(alone), len(theirs), len(added)])
    return positions, kinds, np.concatenate([np.full(len(alone), np.nan), second.figure_of_merit[order]])
