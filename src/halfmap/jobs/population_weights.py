"""``halfmap population estimate-weights``: how much items, tilts and frames count."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from halfmap.jobs.population_params import PopulationParams
from halfmap.multiparticle.weight_params import WeightParams
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from halfmap.jobs.population_files import OpenPopulation
    from halfmap.jobs.population_members import OpenSource
    from halfmap.jobs.population_weights_items import ItemWeights, WeightTask
    from halfmap.report.blocks import Block


_TOLD_APART = 6
"""Lines that a plot can tell apart."""


@dataclass(frozen=True, kw_only=True)
class EstimateWeightsParams(WeightParams, PopulationParams):
    """Inputs and settings of ``halfmap population estimate-weights``."""

    sources: tuple[str, ...] = ()
    """Names of the sources whose items to weigh. Default: all."""

    reset: bool = False
    """Forget all weights instead: items count alike, images by their tilt and dose."""


def _run(context: JobContext, params: EstimateWeightsParams) -> Path:
    from halfmap.jobs.per_micrograph import forget_states
    from halfmap.jobs.population_files import changing
    from halfmap.jobs.population_images import why_broken
    from halfmap.jobs.population_sources import commit_source
    from halfmap.multiparticle.estimate_weights import without_weights
    from halfmap.report.blocks import Fact, Facts, Report, Section

    facts, sections = [], []
    with changing(params.population, context.progress.message) as opened:
        for source in opened.chosen_sources(params.sources):
            with source.versions.staging() as staged:
                blocks: list[Block] = []
                if params.reset:
                    for item in source.source.items:
                        if (reason := why_broken(source, item)) is not None:
                            context.progress.message(f"{item.name} stays as it is: {reason}")
                            continue
                        source.write_item(staged, item, without_weights(source.read_item(item)))
                else:
                    tasks, weights = _estimated(context, params, opened, source)
                    for task, one in zip(tasks, weights, strict=True):
                        source.write_item(staged, task.item, one.put_into(source.read_item(task.item)))
                    blocks = _drawn(tasks, weights)
                made = commit_source(source, staged, source.source)
            name = source.source.name
            version = "as before" if made is None else f"version {made.version[:8]}"
            context.progress.message(
                f"{name}: {'weights forgotten' if params.reset else 'weights estimated'}, {version}."
            )
            facts.append(Fact(label=name, value=version))
            sections.append(Section(title=name, blocks=blocks))
        path = opened.path
    context.report(
        Report(
            title=f"Weights in {opened.population.name}",
            summary="Items count alike again." if params.reset else f"Estimated for {params.resolve}.",
            facts=Facts(facts=facts),
            sections=[] if params.reset else sections,
        )
    )
    forget_states(context)
    return path


def _estimated(
    context: JobContext, params: EstimateWeightsParams, opened: "OpenPopulation", source: "OpenSource"
) -> "tuple[list[WeightTask], list[ItemWeights]]":
    """Return the items of a source that could be weighed, and their weights."""
    from halfmap.jobs import population_weights_items as items
    from halfmap.jobs.per_micrograph import Rejected, resumable_map
    from halfmap.jobs.population_refine_work import references_of

    particles = [species.particles() for species in opened.species]
    pairs = [references_of(species) for species in opened.species]
    references = tuple(map(context.executor.broadcast, pairs))
    tasks = [
        items.WeightTask(
            source=source,
            item=item,
            species=tuple(species.species for species in opened.species),
            references=references,
            particles=tuple(one.take(one.source_hash == item.hash) for one in particles),
        )
        for item in source.source.items
        if any((one.source_hash == item.hash).any() for one in particles)
    ]
    items.check_particles(tasks, source)
    largest = max(items.memory_bytes(task, pairs) for task in tasks)
    context.expect_memory(largest, "references and an item's windows", n_tasks=len(tasks))
    results = resumable_map(
        context,
        items.correlate_item,
        tasks,
        names=[task.item.name for task in tasks],
        result_type=items.ItemCorrelations,
        label=f"Correlating {source.source.name}",
        part=source.source.name,
        what="items",
    )
    found = [(task, one) for task, one in zip(tasks, results, strict=True) if not isinstance(one, Rejected)]
    return [task for task, _ in found], items.weights_of_items([one for _, one in found], params)


def _drawn(tasks: "list[WeightTask]", weights: "list[ItemWeights]") -> "list[Block]":
    from halfmap.report.blocks import Axis, Curve, Line, Table

    rows = [
        (
            task.item.name,
            sum(map(len, task.particles)),
            round(float(one.scale.mean()), 3),
            round(float(one.b_factor_angstrom2.mean())),
        )
        for task, one in zip(tasks, weights, strict=True)
    ]
    table = Table(columns=("item", "particles", "scale", "B (Å²)"), rows=rows, title="Mean of each item")
    if not weights[0].is_of_images:
        return [table]
    image = Axis(label="image, by angle or time")
    first = weights[:1] if all(one is weights[0] for one in weights) else weights
    curves = [
        Curve(
            title=title,
            lines=[
                Line(
                    label="all items" if len(first) < len(tasks) else task.item.name,
                    x=np.arange(len(one.scale)),
                    y=getattr(one, name),
                    style="line" if len(first) <= _TOLD_APART else "thin",
                )
                for task, one in zip(tasks, first, strict=False)
            ],
            x=image,
            y=Axis(label=title, unit=unit),
        )
        for title, name, unit in (("Scale", "scale", ""), ("B-factor", "b_factor_angstrom2", "Å²"))
    ]
    return [*curves, table]


JOB = JobType(
    command="population estimate-weights",
    folder="Population",
    parameters=EstimateWeightsParams,
    run=_run,
    summary="Tell how much items, tilts and frames count, by how they agree with the other half's maps",
    inputs=("population",),
    main_files={"population": "*.population"},
)
