"""The work of ``halfmap constrained-search``: micrographs one at a time, and which particles have the domain."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.compute.broadcast import Broadcast
from halfmap.errors import InputError
from halfmap.geometry.euler import array_from_euler, euler_from_array
from halfmap.io.atomic import write_text
from halfmap.io.leopard import LeopardColumns
from halfmap.io.relion_paths import resolve_paths
from halfmap.jobs import constrained_search_report
from halfmap.jobs.constrained_search import ConstrainedSearchJobParams
from halfmap.jobs.leopard_inputs import open_template
from halfmap.jobs.micrograph_inputs import read_finite
from halfmap.jobs.per_micrograph import forget_states, resumable_map
from halfmap.jobs.template_particles import FoundParticles, found_particles, most_pixels, pixel_sizes, read_table
from halfmap.jobs.template_results import gathered, results_table, text_of, write_star
from halfmap.project.job import JobContext
from halfmap.template_matching.boxes import check_box
from halfmap.template_matching.constrained import domain_rotations, number_of_trials, search_domains
from halfmap.template_matching.global_search.peaks import cutoff_of
from halfmap.template_matching.refine import Refined
from halfmap.template_matching.template import Template, prepare_template

COMMON = (
    "No --particle-template was given: what the particle itself has in common with the domain adds to the scores, also "
    "of particles without the domain."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainTask:
    """Particles of one micrograph whose domain is looked for.

    Parameters
    ----------
    particles : what they are.
    templates : what is broadcast: the domain's, and the particle's or None.
    box : side of the boxes.
    params : the settings.
    """

    particles: FoundParticles
    templates: Broadcast
    box: int
    params: ConstrainedSearchJobParams


def constrained_search(context: JobContext, params: ConstrainedSearchJobParams) -> Path:
    """Search, and return the path of ``particles.csv``.

    Raises
    ------
    FormatError, InputError
        A table, a template or the statistics' maps are at fault.
    JobFailed
        More than a tenth of the micrographs or of the particles are.
    """
    assert params.particles is not None
    assert params.template is not None
    table = read_table(context, params.particles)
    sizes = pixel_sizes(table)
    warnings: list[str] = []
    templates, box = _templates(context, params, float(np.median(sizes)), warnings)
    side = templates[0].side
    if params.particle_template is None:
        warnings.append(COMMON)
    for sentence in warnings:
        context.progress.message(sentence)
    held = table if params.search is None else with_maps_of(context, table, read_table(context, params.search))
    handle = context.executor.broadcast(templates)
    found, rejected = found_particles(context, held, side, use_maps=params.search is not None)
    n_trials = number_of_trials(params)
    cutoff = cutoff_of(params.false_positives, n_places=1, n_correlations=n_trials)
    context.progress.message(
        f"{len(domain_rotations(params)):,} orientations and {len(params.defocus_offsets_angstrom)} defoci: "
        f"{n_trials:,} trials a particle, whose highest exceeds {cutoff:.2f} of noise in {params.false_positives:g} of "
        "the particles."
    )
    context.expect_memory(
        int(40 * most_pixels(found) + params.batch * 250 * box * box) + 2**29,
        "one micrograph in each worker",
        n_tasks=len(found),
    )
    names = [part.micrograph.name for part in found]
    tasks = [DomainTask(particles=part, templates=handle, box=box, params=params) for part in found]
    results = resumable_map(context, search_one, tasks, names=names, result_type=Refined, label="Searching")
    refined, order = gathered(found, results, rejected, len(table))
    passes = refined.z.numpy() > cutoff
    turns = domain_turns(table, refined, order, params.axis)
    written = results_table(context, held, sizes, side, refined, order, rejected, template=params.template)
    written = written.with_columns(**_of_rows(turns, order, len(table)))
    output = context.folder / "particles.csv"
    written.write(output)
    written.take(order[passes]).write(context.folder / "particles_above_threshold.csv")
    write_star(context, output)
    _write_parameters(context.folder / "parameters.csv", params, n_trials, cutoff)
    context.progress.message(
        f"{int(passes.sum())} of {len(order)} particles lie above {cutoff:.2f}; set aside {len(rejected)}, which keep "
        "their rows."
    )
    context.report(
        constrained_search_report.page(written, refined, order, rejected, turns, n_trials, cutoff, params, warnings)
    )
    forget_states(context)
    handle.discard()
    return output


def search_one(task: DomainTask) -> Refined:
    """Look for the domain of some particles of one micrograph.

    Raises
    ------
    FormatError, InputError
        The micrograph or a map of the search is at fault.
    """
    particles, (template, particle_template) = task.particles, task.templates.load()
    return search_domains(
        read_finite(particles.micrograph),
        particles.pixel_size_angstrom,
        particles.candidates(template.side, task.box - template.side + 1),
        template,
        task.box,
        task.params,
        particle_template=particle_template,
        key=particles.key,
    )


def _templates(
    context: JobContext, params: ConstrainedSearchJobParams, usual: float, said: list[str]
) -> tuple[tuple[Template, Template | None], int]:
    """Return the templates of domain and particle made ready, and the side of the boxes.

    Raises
    ------
    InputError, ShapeError
        One is no template, they have different sides, or the box does not suit them.
    """
    made: list[Template | None] = []
    for path in (params.template, params.particle_template):
        if path is None:
            made.append(None)
            continue
        volume = open_template(path, params.template_pixel_size_angstrom, usual, "micrographs", said)
        context.expect_memory(16 * (volume.grid.side * params.padding) ** 3, f"the template {path.name}")
        made.append(prepare_template(volume.values, volume.grid, padding=params.padding))
    domain, particle = made
    assert domain is not None
    if particle is not None and particle.side != domain.side:
        raise InputError(
            f"--particle-template must have the side of --template, {domain.side} px, so that both have one frame; got "
            f"{particle.side} px; crop or pad it with `halfmap volume crop`."
        )
    box = domain.side + 16 if params.box_pixel is None else params.box_pixel
    check_box(box, domain.side)
    if 2 * params.reach_pixel > box - domain.side:
        raise InputError(
            f"--reach must be at most half of what the box exceeds the template by, {(box - domain.side) // 2} px; got "
            f"{params.reach_pixel}; give a --box of {domain.side + 2 * params.reach_pixel + 8}."
        )
    return (domain, particle), box


def with_maps_of(context: JobContext, table: LeopardColumns, search: LeopardColumns) -> LeopardColumns:
    """Return a table with the maps of another search of the same micrographs.

    Raises
    ------
    InputError
        A micrograph was not searched.
    """
    columns = [f"correlation_{kind}_path" for kind in ("average", "variance")]
    micrographs = []
    for one in (table, search):
        names = [str(name) for name in one.columns["micrograph_path"]]
        root = resolve_paths(one.path, context.project, names)
        micrographs.append([(root / name).resolve() for name in names])
    row_of = {path: row for row, path in reversed(list(enumerate(micrographs[1])))}
    missing = next((path for path in micrographs[0] if path not in row_of), None)
    if missing is not None:
        raise InputError(
            f"{search.path} must have a row of every micrograph, for the maps of its search; got none of {missing}; "
            "search it with the domain's template, at a --false-positives high enough to leave a row, or leave out "
            "--search."
        )
    maps: dict[str, list[str]] = {}
    for column in columns:
        named = [text.strip() for text in search.columns.get(column, [""] * len(search))]
        if "" in named:
            raise InputError(f"{search.path} must name the maps of the search in column {column}; got none in line "
                             f"{named.index('') + 2}; mend the column, or leave out --search.")  # fmt: skip
        root = resolve_paths(search.path, context.project, named)
        maps[column] = [context.relative(root / named[row_of[path]]) for path in micrographs[0]]
    return table.with_columns(**maps)


def domain_turns(
    table: LeopardColumns, refined: Refined, rows: NDArray[np.int64], axis: Sequence[float]
) -> dict[str, NDArray[np.float64]]:
    """Return how each domain has turned in its particle.

    Returns
    -------
    Leopard-EM's ``original_offset_*``, the Euler angles of the offset in the frame of the axis; and the right-handed
    turn about the axis and the tilt of it, degrees. float64, shape (N,) each.
    """
    before = array_from_euler(*(table.best(name, f"refined_{name}")[rows] for name in ("phi", "theta", "psi")))
    turned = np.swapaxes(before, -1, -2) @ refined.rotations.numpy()
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    frame = array_from_euler(np.degrees(np.arctan2(y, x)), np.degrees(np.arccos(np.clip(z, -1, 1))), 0.0)
    phi, theta, psi = euler_from_array(frame @ turned @ frame.T).T
    return {
        "original_offset_phi": phi,
        "original_offset_theta": theta,
        "original_offset_psi": psi,
        "domain_turn_degrees": (180.0 - phi - psi) % 360.0 - 180.0,
        "domain_tilt_degrees": theta,
    }


def _of_rows(values: dict[str, NDArray[np.float64]], rows: NDArray[np.int64], n: int) -> dict[str, list[str]]:
    columns = {}
    for name, found in values.items():
        column = np.full(n, np.nan)
        column[rows] = found
        columns[name] = [text_of(value) for value in column]
    return columns


def _write_parameters(path: Path, params: ConstrainedSearchJobParams, n_trials: int, cutoff: float) -> None:
    """Write how many trials each particle had, in Leopard-EM's columns."""
    n_places = (2 * params.reach_pixel + 1) ** 2
    write_text(
        path,
        "num_projections,num_px,num_correlations,false_positives,threshold\n"
        f"{n_trials // n_places},{n_places},{n_trials},{params.false_positives!r},{cutoff:.6f}\n",
    )
