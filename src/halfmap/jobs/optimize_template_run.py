"""The work of ``halfmap optimize-template``: one value after another, each scored on all micrographs."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from halfmap.compute.broadcast import Broadcast
from halfmap.data.atomic_models import AtomicModel
from halfmap.data.volumes import Volume
from halfmap.fourier.resample import rescale_to_pixel_size
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.io.atomic import write_text
from halfmap.jobs.leopard_inputs import check_pixel_offset, check_pixel_size
from halfmap.jobs.map_inputs import read_map
from halfmap.jobs.micrograph_inputs import read_finite
from halfmap.jobs.model_templates import read_model, side_of_model, template_of_model
from halfmap.jobs.optimize_template import OptimizeTemplateJobParams
from halfmap.jobs.optimize_template_report import page
from halfmap.jobs.per_micrograph import Rejected, forget_states, resumable_map
from halfmap.jobs.template_particles import (
    FoundParticles,
    found_particles,
    most_pixels,
    paths_from_project,
    pixel_sizes,
    read_table,
    search_side,
)
from halfmap.project.job import JobContext
from halfmap.simulation.potential import faded
from halfmap.template_matching.boxes import check_box
from halfmap.template_matching.optimize import TemplateScores, Walk, counted_particles, score_templates
from halfmap.template_matching.template import check_template, prepare_template

MAPS = (".mrc", ".map", ".ccp4", ".rec")
"""Endings of maps; what has another is an atomic model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoringTask:
    """Particles of one micrograph to be scored.

    Parameters
    ----------
    particles : what they are.
    template : what is broadcast.
    side, box : of the template and of the boxes.
    changes : as of `score_templates`.
    params : the settings.
    """

    particles: FoundParticles
    template: Broadcast
    side: int
    box: int
    changes: Sequence[tuple[float, float]]
    params: OptimizeTemplateJobParams


def optimize(context: JobContext, params: OptimizeTemplateJobParams) -> Path:
    """Find the best template, and return its path.

    Raises
    ------
    FormatError, InputError
        The table, the template or the statistics' maps are at fault, or no particle counts.
    JobFailed
        More than a tenth of the micrographs or of the particles are.
    """
    assert params.particles is not None
    table = read_table(context, params.particles)
    usual = float(np.median(pixel_sizes(table)))
    check_pixel_offset(params.pixel_size_min_angstrom, usual, "--pixel-size-min")
    lowest = params.pixel_size_min_angstrom + params.pixel_size_fine_min_angstrom
    check_pixel_offset(lowest, usual, "--pixel-size-min and --pixel-size-fine-min together")
    search = search_side(context, table) if params.statistics == "maps" else None
    source = _Source(params, usual, search)
    box = source.side + 16 if params.box_pixel is None else params.box_pixel
    check_box(box, source.side)
    found, rejected = found_particles(context, table, source.side, use_maps=params.statistics == "maps")
    context.expect_memory(16 * (source.side * params.padding) ** 3, "the template")
    context.expect_memory(
        int(40 * most_pixels(found) + params.batch * 200 * box * box) + 2**28,
        "one micrograph in each worker",
        n_tasks=len(found),
    )
    scorer = _Scorer(context, params, source, box)
    walks = _walk(scorer, found, usual, params)
    size, b_factor = walks[-1].pixel_sizes_angstrom[0], walks[-1].best.value
    warnings = [
        f"The best {walk.varied} is at the end of those tried, {walk.best.value:.5g} {walk.unit}: a better one may lie "
        "beyond; try more."
        for walk in walks
        if walk.best.at_rim
    ]
    for sentence in warnings:
        context.progress.message(sentence)
    volume = faded(
        source.at(size), envelope_b_factor_angstrom2=b_factor, dose_e_per_angstrom2=(0.0, 0.0), voltage_kv=300.0
    )
    output = context.folder / "template.mrc"
    mrc.write_volume(output, volume)
    _write_scores(context.folder / "scores.csv", walks)
    n = len(table)
    table.with_columns(
        **paths_from_project(context, table),
        refined_pixel_size=[repr(round(size, 6))] * n,
        template_path=[context.relative(output)] * n,
    ).write(context.folder / "particles.csv")
    context.progress.message(f"Pixel size {size:.5g} Å, where {usual:.5g} Å was given; B-factor {b_factor:+.0f} Å².")
    context.report(page(walks, usual, volume, len(rejected), warnings))
    forget_states(context)
    return output


def _walk(
    scorer: "_Scorer", found: Sequence[FoundParticles], usual: float, params: OptimizeTemplateJobParams
) -> list[Walk]:
    """Try pixel sizes, finer ones about the best, and B-factors at the best of those."""
    walks: list[Walk] = []

    def tried(varied: Literal["pixel size", "B-factor"], name: str, changes: Sequence[tuple[float, float]]) -> float:
        nonlocal found
        found, scores = scorer.score(name, found, changes)
        if not walks:
            counted = counted_particles(scores.z, params)
            scorer.context.progress.message(f"{int(counted.sum())} of {len(counted)} particles count.")
            found, scores = _counted(found, counted), scores.take(torch.nonzero(counted).flatten())
        sizes, b_factors = zip(*changes, strict=True)
        walks.append(
            Walk(varied=varied, name=name, pixel_sizes_angstrom=sizes, b_factors_angstrom2=b_factors, scores=scores)
        )
        return walks[-1].best.value

    size = tried("pixel size", "coarse pixel size", [(usual + by, 0.0) for by in params.coarse_offsets_angstrom])
    if len(params.fine_offsets_angstrom) > 1:
        size = tried("pixel size", "fine pixel size", [(size + by, 0.0) for by in params.fine_offsets_angstrom])
    tried("B-factor", "B-factor", [(size, b_factor) for b_factor in params.b_factors_angstrom2])
    return walks


def score_one(task: ScoringTask) -> TemplateScores:
    """Score some particles of one micrograph.

    Raises
    ------
    FormatError, InputError
        The micrograph or a map of the search is at fault.
    """
    particles = task.particles
    return score_templates(
        read_finite(particles.micrograph),
        particles.pixel_size_angstrom,
        particles.candidates(task.side, task.box - task.side + 1),
        task.template.load(),
        task.box,
        task.params,
        changes=task.changes,
        key=particles.key,
    )


class _Source:
    """Where templates come from: a model, of which each is made, or a map, which is scaled."""

    def __init__(self, params: OptimizeTemplateJobParams, usual: float, search: int | None) -> None:
        assert params.template is not None
        self.params = params
        self.model: AtomicModel | None = None
        self.volume: Volume | None = None
        if params.template.suffix.lower() in MAPS:
            self.volume = read_map(params.template, params.template_pixel_size_angstrom, flag="--template-pixel-size")
            check_pixel_size(params.template, self.volume.grid, usual, "micrographs")
            check_template(self.volume.values, self.volume.grid)
            self.side = self.volume.grid.side
        else:
            self.model = model = read_model(params.template, params)
            self.side = params.template_box_pixel or search or side_of_model(model, usual)

    def at(self, pixel_size_angstrom: float) -> Volume:
        """Return the template sampled at a pixel size."""
        if self.model is not None:
            return template_of_model(self.model, self.side, pixel_size_angstrom, self.params)
        assert self.volume is not None
        values, grid = rescale_to_pixel_size(self.volume.values, self.volume.grid, pixel_size_angstrom, self.side)
        return Volume(values=values, grid=grid)


class _Scorer:
    """Scores particles with templates of several pixel sizes and B-factors."""

    def __init__(self, context: JobContext, params: OptimizeTemplateJobParams, source: _Source, box: int) -> None:
        self.context, self.params, self.source, self.box = context, params, source, box

    def score(
        self, name: str, found: Sequence[FoundParticles], changes: Sequence[tuple[float, float]]
    ) -> tuple[list[FoundParticles], TemplateScores]:
        """Return the particles that could be scored, and their scores with each pixel size and B-factor."""
        usual, source = found[0].pixel_size_angstrom, self.source
        if source.volume is not None:
            own = source.volume.grid.pixel_size_angstrom
            # a micrograph of larger pixels shows the template smaller, in its own pixels
            results = [self._pass(name, found, source.volume, [(own * usual / size, b) for size, b in changes])]
        else:
            results = []
            by_size = [(size, list(group)) for size, group in itertools.groupby(changes, key=lambda change: change[0])]
            for size, group in by_size:
                # made at that pixel size, it fits the micrographs' pixels as they are counted
                grid = ImageGrid.cubic(source.side, usual)
                volume = Volume(values=source.at(size).values, grid=grid)
                label = f"{name} {size:.5g} Å" if len(by_size) > 1 else name
                results.append(self._pass(label, found, volume, [(usual, b) for _, b in group]))
        kept, scores = [], []
        for part, *of_part in zip(found, *results, strict=True):
            good = [result for result in of_part if isinstance(result, TemplateScores)]
            if len(good) == len(of_part):
                kept.append(part)
                scores.append(
                    TemplateScores(
                        mip=torch.cat([one.mip for one in good], dim=-1), z=torch.cat([one.z for one in good], dim=-1)
                    )
                )
        return kept, TemplateScores.joined(scores)

    def _pass(
        self, name: str, found: Sequence[FoundParticles], volume: Volume, changes: Sequence[tuple[float, float]]
    ) -> list[TemplateScores | Rejected]:
        template = prepare_template(volume.values, volume.grid, padding=self.params.padding)
        handle = self.context.executor.broadcast(template)
        task = ScoringTask(
            particles=found[0],
            template=handle,
            side=self.source.side,
            box=self.box,
            changes=changes,
            params=self.params,
        )
        results = resumable_map(
            self.context,
            score_one,
            [dataclasses.replace(task, particles=part) for part in found],
            names=[part.micrograph.name for part in found],
            result_type=TemplateScores,
            label=name[:1].upper() + name[1:],
            part=name,
        )
        done = list(results)
        handle.discard()
        return done


def _counted(found: Sequence[FoundParticles], counted: torch.Tensor) -> list[FoundParticles]:
    """Return the particles that count, in their parts."""
    parts = []
    for part, which in zip(found, counted.split([len(part) for part in found]), strict=True):
        if bool(which.any()):
            parts.append(part.take(torch.nonzero(which).flatten()))
    return parts


def _write_scores(path: Path, walks: Sequence[Walk]) -> None:
    """Write the mean scores at each value."""
    lines = ["walk,pixel_size_angstrom,b_factor_angstrom2,particles,mean_z,mean_mip"]
    for walk in walks:
        z, mip = walk.scores.z.mean(0).tolist(), walk.scores.mip.mean(0).tolist()
        columns = zip(walk.pixel_sizes_angstrom, walk.b_factors_angstrom2, z, mip, strict=True)
        lines += [
            f"{walk.name},{size:.6f},{b_factor:.3f},{len(walk.scores)},{one_z:.5f},{one_mip:.5f}"
            for size, b_factor, one_z, one_mip in columns
        ]
    write_text(path, "\n".join(lines) + "\n")
