"""From movies or micrographs to particles while a session runs: batches of new ones are picked and extracted.

``python -m halfmap.sessions.preparation WORK NUMBER`` makes one batch, and ends when its input does.
"""

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from halfmap.data.micrographs import MicrographSet
from halfmap.errors import HalfmapError, InputError
from halfmap.io import relion, star
from halfmap.io.atomic import write_json
from halfmap.sessions.settings import LiveSettings

RAW = "raw"
BATCH = "batch.json"
MICROGRAPHS = "micrographs.star"
PARTICLES = "particles.star"
MOST_MICROGRAPHS, MOST_MOVIES = 20, 6
MISTAKE = 2
"""Exit code where the micrographs are at fault: the reason is the last line on stderr."""
TABLE = "micrographs_ctf.star"
"""Of the micrographs that a session has made of movies, in its folder of batches."""

_BOX_DIAMETERS = 1.6
_PIXELS_PER_RESOLUTION = 3.0
_LEAST_BOX_PIXEL = 24


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How particles are found in micrographs and cut out.

    Parameters
    ----------
    min_diameter_angstrom, max_diameter_angstrom : of blobs.
    max_resolution_angstrom : the finest that the picker looks at.
    box_pixel, rescale_pixel : sides of the window and of the particle image.
    """

    min_diameter_angstrom: float
    max_diameter_angstrom: float
    max_resolution_angstrom: float
    box_pixel: int
    rescale_pixel: int


def batch_plan(settings: LiveSettings, pixel_size_angstrom: float) -> BatchPlan:
    """Return how a session's particles are found: their diameter is the mask radius over 0.6, as it was guessed.

    Notes
    -----
    Blobs may differ from the diameter by a fifth. The box is 1.6 diameters, reduced to three pixels for each period
    of the final resolution.
    """
    diameter = settings.mask_radius_angstrom / 0.6
    box = max(_LEAST_BOX_PIXEL, _even(_BOX_DIAMETERS * diameter / pixel_size_angstrom))
    target = settings.final_resolution_angstrom / _PIXELS_PER_RESOLUTION
    reduced = min(box, max(_LEAST_BOX_PIXEL, _even(box * pixel_size_angstrom / target)))
    return BatchPlan(
        min_diameter_angstrom=0.8 * diameter,
        max_diameter_angstrom=1.2 * diameter,
        max_resolution_angstrom=min(20.0, 0.8 * diameter / 1.5),
        box_pixel=box,
        rescale_pixel=reduced,
    )


def batches(work: Path) -> list[Path]:
    """Return the folders of the batches that are complete, the first first."""
    return sorted(path for path in (work / RAW).glob("[0-9]*") if path.name.isdigit())


def done_micrographs(work: Path) -> set[str]:
    """Return the micrographs of the complete batches, as their tables name them."""
    return {name for path in batches(work) for name in json.loads((path / BATCH).read_text())["micrographs"]}


def write_batch(work: Path, number: int, table: Path, names: Mapping[str, Path], plan: BatchPlan) -> None:
    """Write down what a batch is made of.

    Parameters
    ----------
    table : of micrographs.
    names : of those that are in the batch, as in the table → where they are.
    """
    part = _empty_part(work, number)
    micrographs = relion.read_micrographs(table)
    rows = [row for row, name in enumerate(micrographs["micrograph_name"].tolist()) if str(name) in names]
    own = micrographs.take(rows)
    places = [str(names[str(name)]) for name in own["micrograph_name"].tolist()]
    relion.write_micrographs(part / MICROGRAPHS, own.with_columns(micrograph_name=np.array(places, dtype=object)))
    write_json(part / BATCH, {"micrographs": list(names), "plan": asdict(plan)})


def write_movie_batch(
    work: Path,
    number: int,
    movies: Mapping[str, Path],
    plan: BatchPlan,
    *,
    motion: Mapping[str, Any],
    ctf: Mapping[str, Any],
) -> None:
    """Write down what a batch of movies is made of.

    Parameters
    ----------
    movies : names → where they are.
    motion, ctf : parameters of ``halfmap motion`` and ``halfmap ctf``.
    """
    steps = {"paths": [str(path) for path in movies.values()], "motion": dict(motion), "ctf": dict(ctf)}
    batch = {"micrographs": list(movies), "plan": asdict(plan), "movies": steps}
    write_json(_empty_part(work, number) / BATCH, batch)


def set_aside(batch: Path) -> dict[str, str]:
    """Return what a complete batch has left out, with reasons."""
    found: dict[str, str] = json.loads((batch / BATCH).read_text()).get("set_aside", {})
    return found


def make_batch(work: Path, number: int, *, devices: str = "auto", workers: int | None = None) -> None:
    """Pick and extract a batch that was written down, and publish it.

    The working directory must be the folder of batches, which is a project of its own.

    Raises
    ------
    HalfmapError
        A job fails.
    """
    import halfmap

    part = work / RAW / f"{number:04d}.part"
    batch = json.loads((part / BATCH).read_text())
    plan = BatchPlan(**batch["plan"])
    for name in ("motion", "ctf", "pick", "extract"):
        shutil.rmtree(part / name, ignore_errors=True)
    options: dict[str, Any] = {"devices": devices, "workers": workers}
    table = _with_ctf(part, batch, options) if "movies" in batch else part / MICROGRAPHS
    picked = halfmap.pick_log(
        micrographs=table,
        min_diameter_angstrom=plan.min_diameter_angstrom,
        max_diameter_angstrom=plan.max_diameter_angstrom,
        max_resolution_angstrom=plan.max_resolution_angstrom,
        out=part / "pick",
        **options,
    )
    extracted = halfmap.extract(
        micrographs=table,
        picks=picked.main_output,
        box_pixel=plan.box_pixel,
        rescale_pixel=plan.rescale_pixel,
        out=part / "extract",
        **options,
    )
    particles = relion.read_particles(extracted.main_output)
    names = [str(name) for name in particles["image_name"].tolist()]
    base = relion.resolve_paths(extracted.main_output, work / RAW, names)
    places = [f"{image.partition('@')[0]}@{os.path.relpath(base / image.partition('@')[2], part)}" for image in names]
    relion.write_particles(part / PARTICLES, particles.with_columns(image_name=np.array(places, dtype=object)))
    if "movies" in batch:
        relion.write_micrographs(part / MICROGRAPHS, _in_batch(relion.read_micrographs(table), part))
    os.replace(part, work / RAW / f"{number:04d}")
    if "movies" in batch:
        own = [relion.read_micrographs(path / MICROGRAPHS) for path in batches(work)]
        relion.write_micrographs(work / RAW / TABLE, MicrographSet.concatenate(own))


def make(work: Path, number: int, *, devices: str, workers: int | None) -> int:
    """Make a batch as `make_batch` does; return the exit code, the reason of a failure as the last line on stderr."""
    try:
        make_batch(work, number, devices=devices, workers=workers)
    except HalfmapError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return MISTAKE
    return 0


def _with_ctf(part: Path, batch: dict[str, Any], options: Mapping[str, Any]) -> Path:
    """Correct the motion of a batch's movies and find their CTF; return the table of micrographs.

    Movies that are set aside, and micrographs without rings, are written down in the batch.
    """
    import halfmap

    movies = batch["movies"]
    paths = tuple(Path(path) for path in movies["paths"])
    corrected = halfmap.motion(movies=paths, out=part / "motion", **options, **movies["motion"])
    found = halfmap.ctf(micrographs=(corrected.main_output,), out=part / "ctf", **options, **movies["ctf"])
    batch["set_aside"] = {
        Path(str(name)).stem: str(reason)
        for path in (corrected.folder / "rejected.star", found.folder / "failed.star", found.folder / "rejected.star")
        if path.exists()
        for table in star.read(path)
        for name, reason in zip(table.text("rlnMicrographName"), table.text("halfmapReason"), strict=True)
    }
    if not len(relion.read_micrographs(found.main_output)):
        raise InputError(
            f"A micrograph's CTF must be found; got of {len(paths)} movies "
            f"{'; '.join(sorted(set(batch['set_aside'].values())))}; look at {found.folder / 'report.html'}."
        )
    write_json(part / BATCH, batch)
    return found.main_output


def _in_batch(micrographs: MicrographSet, part: Path) -> MicrographSet:
    """Return micrographs whose files are named as they are once the batch is published."""
    before, after = f"{part.name}/", f"{part.stem}/"
    columns = {
        name: np.array([str(one).replace(before, after, 1) for one in micrographs[name]], dtype=object)
        for name in micrographs.columns
        if micrographs[name].dtype == object
    }
    return micrographs.with_columns(**columns)


def _empty_part(work: Path, number: int) -> Path:
    part = work / RAW / f"{number:04d}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def next_batch(
    work: Path, project: Path, names: Sequence[str], failed: Mapping[str, str], *, most: int = MOST_MICROGRAPHS
) -> tuple[int, dict[str, Path]]:
    """Return number and micrographs of the next batch: those that are there and were in none before.

    Parameters
    ----------
    project : from which names hold.
    names : of all micrographs, as their table has them.
    failed : micrographs that are left out, with reasons.
    most : in a batch.
    """
    done = done_micrographs(work)
    found: dict[str, Path] = {}
    for name in names:
        path = project / name
        if name not in done and name not in failed and path.is_file():
            found[name] = path
        if len(found) == most:
            break
    return 1 + max((int(path.name) for path in batches(work)), default=0), found


def _even(value: float) -> int:
    return 2 * round(value / 2)


def _end_with_input() -> None:
    with suppress(OSError):
        sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    (Path(sys.argv[1]) / RAW / ".halfmap").mkdir(exist_ok=True)
    os.chdir(Path(sys.argv[1]) / RAW)
    sys.exit(make(Path(sys.argv[1]), int(sys.argv[2]), devices=sys.argv[3], workers=int(sys.argv[4]) or None))
