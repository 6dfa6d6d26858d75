"""What a session leaves for other programs: RELION, cisTEM, and readers of Live2D's folder."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.io import cistem, relion
from halfmap.io.atomic import write_json, write_text
from halfmap.io.images import write_png
from halfmap.io.mrc import StackSource, StackWriter, map_data
from halfmap.sessions import store
from halfmap.sessions.live2d import SETTINGS
from halfmap.sessions.observation import SourceSettings
from halfmap.sessions.pictures import grey_tiles

KINDS = ("relion", "cistem", "live2d", "averages", "csv")

_AT_ONCE = 500
_BLOCKS = {"seed": "random_seed", "startup": "startup", "refinement": "refinement", "incremental": "refinement"}


def export(
    kind: str,
    destination: Path,
    *,
    work: Path,
    folder: Path,
    cycle: Mapping[str, Any],
    cycles: Sequence[Mapping[str, Any]],
    selected: Sequence[int],
    settings: SourceSettings,
    left_out: Collection[str] = (),
) -> Path:
    """Write what a session has found for other programs.

    Parameters
    ----------
    kind : ``relion``: ``particles.star`` of the selected classes and their averages; ``cistem``: the same particles in
        ``combined_stack.mrcs`` and ``.star``; ``live2d``: Live2D's folder with all particles, which cisTEM's
        ``warp_to_cistem`` reads; ``averages``: the selected class averages, as MRC and PNG; ``csv``: the same particles
        as for RELION in ``particles.csv``, without their rotations.
    destination : a folder, made if missing; files of the same names are replaced.
    work, folder : of the session, of the acquisition.
    cycle : the newest with classified particles, as in its ``cycle.json``.
    cycles : all of them.
    selected : tracks; where none are, all classes count as selected.
    settings : of the source.
    left_out : micrographs, without folder and ending, whose particles are not written but by ``live2d``.

    Returns
    -------
    The main file.

    Raises
    ------
    InputError
        The kind is unknown, or no particle is in the selected classes.
    """
    if kind not in KINDS:
        raise InputError(f"An export must be one of {', '.join(KINDS)}; got {kind!r}; choose one of them.")
    destination.mkdir(parents=True, exist_ok=True)
    if kind == "live2d":
        return _live2d(destination, work, folder, cycles, settings)
    chosen = [one["index"] for one in cycle["classes"] if not selected or one["track"] in set(selected)]
    if kind == "averages":
        return _averages(destination, work, cycle, chosen)
    particles = _particles(work, folder, cycle)
    wanted = [Path(str(name)).stem not in left_out for name in particles["micrograph_name"].tolist()]
    particles = particles.take(np.isin(particles["class_number"], chosen) & np.array(wanted, dtype=bool))
    if not len(particles):
        raise InputError("Selected classes must have particles; got none; select others, or loosen the limits.")
    if kind == "csv":
        path = destination / "particles.csv"
        kept = {name: values for name, values in particles.columns.items() if name != "rotation"}
        write_text(path, ParticleSet(columns=kept, optics=particles.optics).to_dataframe().to_csv(index=False))
        return path
    if kind == "relion":
        _averages(destination, work, cycle, chosen)
        path = destination / "particles.star"
        relion.write_particles(path, particles)
        return path
    return _combined_stack(destination, particles, settings)


def _particles(work: Path, folder: Path, cycle: Mapping[str, Any]) -> ParticleSet:
    """Return the particles of a cycle, with image names that hold everywhere."""
    particles = relion.read_particles(store.folder_of(work, cycle["number"]) / store.DATA)
    names = [str(name).partition("@") for name in particles["image_name"].tolist()]
    absolute = [f"{number}@{folder / path}" for number, _, path in names]
    return particles.with_columns(image_name=np.array(absolute, dtype=object))


def _averages(destination: Path, work: Path, cycle: Mapping[str, Any], chosen: Sequence[int]) -> Path:
    images = np.array(map_data(store.folder_of(work, cycle["number"]) / store.CLASSES))
    images = images.reshape(-1, *images.shape[-2:])[[number - 1 for number in chosen]]
    grid = ImageGrid.square(images.shape[-1], cycle["pixel_size_angstrom"])
    path = destination / "class_averages.mrcs"
    with StackWriter(path, grid, len(images)) as writer:
        writer.write(images)
    _pngs(destination / "class_averages", images, chosen)
    return path


def _pngs(folder: Path, images: NDArray[np.float32], numbers: Sequence[int]) -> None:
    mask = np.ones(images.shape[-2:], dtype=bool)
    for number, tile in zip(numbers, grey_tiles(images, mask), strict=True):
        write_png(folder / f"{number}.png", tile)


def _combined_stack(destination: Path, particles: ParticleSet, settings: SourceSettings) -> Path:
    """Copy images into one stack, bright, in the order of the table beside it."""
    stack = destination / "combined_stack.mrcs"
    pixel = float(particles.optics["pixel_size_angstrom"][0])
    side = int(particles.optics["image_size_pixel"][0])
    source = StackSource(particles["image_name"], grid=ImageGrid.square(side, pixel))
    sign = 1 if settings.flag("particles_are_bright", True) else -1
    with StackWriter(stack, source.grid, len(particles)) as writer:
        for start in range(0, len(particles), _AT_ONCE):
            writer.write(sign * source.read(np.arange(start, min(start + _AT_ONCE, len(particles)))))
    path = destination / "combined_stack.star"
    cistem.write_particles(path, particles, stack_name=str(stack))
    return path


def _live2d(
    destination: Path,
    work: Path,
    folder: Path,
    cycles: Sequence[Mapping[str, Any]],
    settings: SourceSettings,
) -> Path:
    """Write Live2D's folder: of every cycle whose particles are kept, its averages, table and pictures."""
    kept = [
        store.read_cycle(work, one["number"])
        for one in cycles
        if (store.folder_of(work, one["number"]) / store.DATA).exists()
    ]
    newest = [one for one in kept if one["kind"] != "seed"][-1]
    particles = _particles(work, folder, newest)
    _combined_stack(destination, particles, settings)
    listed, in_block = [], 0
    for place, one in enumerate(kept):
        in_block = in_block + 1 if place and kept[place - 1]["kind"] == one["kind"] else 0
        name = f"cycle_{one['number']}"
        images = np.array(map_data(store.folder_of(work, one["number"]) / store.CLASSES))
        images = images.reshape(-1, *images.shape[-2:])
        grid = ImageGrid.square(images.shape[-1], one["pixel_size_angstrom"])
        with StackWriter(destination / f"{name}.mrc", grid, len(images)) as writer:
            writer.write(images)
        numbers = [entry["index"] for entry in one["classes"]]
        _pngs(destination / "class_images" / name, images, numbers)
        own = _particles(work, folder, one)
        cistem.write_particles(destination / f"{name}.star", own, stack_name="combined_stack.mrcs")
        listed.append(_entry(one, name, in_block))
    content = {
        "schema": 1,
        "warp_folder": str(folder),
        "working_directory": str(destination),
        "logfile": str(destination / "logfile.txt"),
        "settings": _settings(newest, settings),
        "cycles": listed,
        "counting": False,
        "job_status": "stopped",
        "force_abinit": False,
        "next_run_new_particles": False,
        "kill_job": False,
    }
    (destination / "logfile.txt").touch()
    path = destination / "latest_run.json"
    write_json(path, content)
    return path


def _entry(one: Mapping[str, Any], name: str, in_block: int) -> dict[str, Any]:
    counts = [one["unassigned"], *(entry["particles"] for entry in one["classes"])]
    return {
        "name": name,
        "number": one["number"],
        "settings": {
            **one["settings"],
            "class_number": len(one["classes"]),
            "mask_radius": one["settings"]["mask_radius_angstrom"],
        },
        "high_res_limit": one["resolution_angstrom"],
        "block_type": _BLOCKS[one["kind"]],
        "cycle_number_in_block": in_block,
        "time": one["finished"],
        "process_count": 1,
        "particle_count": one["particles"],
        "particle_count_per_class": counts,
        "fraction_used": one["fraction"],
    }


def _settings(newest: Mapping[str, Any], source: SourceSettings) -> dict[str, Any]:
    return {theirs: newest["settings"][ours] for theirs, ours in SETTINGS.items()} | {
        "class_number": len(newest["classes"]),
        "box_size": newest["box_pixel"],
        "pixel_size": newest["pixel_size_angstrom"],
        "neural_net": source.text("net_name"),
        "warp_value_cutoff": source.number("score_threshold", 0.0),
    }
