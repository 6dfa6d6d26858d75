"""The one reading of all particle images: each is checked, and kept in one file where that makes later reading fast."""

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.compute.memory import available_memory_bytes, format_memory
from halfmap.data.image_source import Float32Array, ImageSource
from halfmap.errors import FormatError, InconsistentDataError
from halfmap.grid import ImageGrid
from halfmap.io import states
from halfmap.io.image_cache import (
    ImageCache,
    images_of_whole_pages,
    is_on_network,
    key_of_images,
    stack_bytes,
    write_images,
)
from halfmap.io.mapped_stacks import MappedStacks, can_be_mapped
from halfmap.io.mrc import StackSource
from halfmap.io.mrc_header import MrcHeader, read_header
from halfmap.io.mrc_values import read_sections
from halfmap.jobs.particle_checks import ImageChecks, check_images
from halfmap.project.job import JobContext

MOST_MAPPED_STACKS = 200
"""Stacks that are mapped where they lie; images of more go into one file."""

_CHUNK_BYTES = 2**25
_COPIES_OF_A_CHUNK = 4  # as stored, as float32, and what the checks need


@dataclass(frozen=True, kw_only=True, eq=False)
class WantedImages:
    """Images of one size, each once, in the order of their files.

    Parameters
    ----------
    grid : sides and pixel size.
    headers : of their files.
    file, section : of each image, the row of its file in ``headers`` and its 0-based number there; int64, shape (n,).
    mask_radius_pixel : of the circle outside which background lies.
    """

    grid: ImageGrid
    headers: tuple[MrcHeader, ...]
    file: NDArray[np.int64]
    section: NDArray[np.int64]
    mask_radius_pixel: float

    def __len__(self) -> int:
        return len(self.file)

    @property
    def float16(self) -> bool:
        """Whether all files hold half precision."""
        return all(header.dtype.kind == "f" and header.dtype.itemsize == 2 for header in self.headers)

    def part(self, rows: slice) -> "WantedImages":
        """Return some of the images, with their files alone."""
        files, file = np.unique(self.file[rows], return_inverse=True)
        return WantedImages(
            grid=self.grid,
            headers=tuple(self.headers[one] for one in files.tolist()),
            file=file.astype(np.int64),
            section=self.section[rows],
            mask_radius_pixel=self.mask_radius_pixel,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadImages:
    """What the reading leaves.

    Parameters
    ----------
    source : picklable; read it again and again.
    index : number of each wanted image in the source, int64, shape (n,).
    checks : of each wanted image.
    cache : to be closed when the source is no longer read; None where no file was made.
    """

    source: ImageSource
    index: NDArray[np.int64]
    checks: ImageChecks
    cache: ImageCache | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _KeptChecks:
    checks: ImageChecks
    key: str
    mask_radius_pixel: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chunk:
    images: WantedImages
    first: int
    copy: MrcHeader | None


def checks_path(folder: Path, number: int) -> Path:
    """Return where a job keeps the checks of its source of this number, so that going on needs no second reading."""
    return folder / "state" / f"image_checks_{number}.safetensors"


def read_images(context: JobContext, wanted: WantedImages, number: int) -> ReadImages:
    """Check images, and make a source of them that is fast to read at random.

    Parameters
    ----------
    context : the job.
    wanted : the images.
    number : of the source, from 0.

    Notes
    -----
    A few stacks of plain values are mapped where they lie. Images of many are copied into one file, in ``--scratch``
    if given, else in the job's folder; with ``--scratch`` also those that lie on a disc of the network. Where the disc
    has no room, they are read from their stacks.

    Raises
    ------
    InconsistentDataError
        The job goes on, and the images are not those that it began with.
    """
    key = key_of_images(wanted.headers, wanted.file, wanted.section)
    cache, said = _storage(context, wanted, key)
    context.progress.message(said)
    try:
        copy = None
        if cache is not None and not cache.is_complete:
            copy = cache.begin(len(wanted), wanted.grid, float16=wanted.float16)
        path = checks_path(context.folder, number)
        kept = _kept_checks(path, wanted)
        checks = kept.checks if kept is not None and kept.key == key else None
        if checks is None or copy is not None:
            read_from = wanted if cache is None or copy is not None else _in_one_file(wanted, cache.path)
            checks = _pass(context, read_from, copy)
            if kept is not None:
                _check_unchanged(kept.checks, checks)
            if cache is not None and copy is not None:
                cache.finish()
            states.save(path, _KeptChecks(checks=checks, key=key, mask_radius_pixel=wanted.mask_radius_pixel))
        return _source(wanted, cache, checks)
    except BaseException:
        if cache is not None:
            cache.close()
        raise


def _storage(context: JobContext, wanted: WantedImages, key: str) -> tuple[ImageCache | None, str]:
    """Return the file to put images into, None where they are read from their stacks, and a sentence on it."""
    scratch = context.options.scratch
    what = f"{len(wanted)} images of {wanted.grid.side} px in {_count(len(wanted.headers), 'stack')}"
    needed = stack_bytes(len(wanted), wanted.grid, float16=wanted.float16)
    fits = _fits(context, needed)
    plain = len(wanted.headers) <= MOST_MAPPED_STACKS and all(map(can_be_mapped, wanted.headers))
    is_far = scratch is not None and is_on_network(wanted.headers[0].path)
    if plain and not (is_far and scratch is not None and not is_on_network(scratch)):
        return None, f"{what} are read where they lie; {fits}."

    told: list[str] = []

    def check() -> None:
        if context.is_cancelled():
            raise KeyboardInterrupt
        if not told:
            told.append("Another job writes the same images into one file; waiting for it.")
            context.progress.message(told[0])

    above = context.folder if scratch is None else scratch
    owner = blake2b(str(context.folder).encode(), digest_size=6).hexdigest()
    cache = ImageCache(above.resolve(), key, owner=owner, check=check)
    if cache.is_complete:
        return cache, f"{what} are in {cache.path} already; {fits}."
    if not cache.has_room(needed):
        cache.close()
        return None, (
            f"{what} are read from there, which is slower: one file of {format_memory(needed)} has no room in {above}; "
            "choose a larger disc with --scratch."
        )
    return (
        cache,
        f"{what} go into one file of {format_memory(needed)}, {cache.path}, removed when the job ends; {fits}.",
    )


def _fits(context: JobContext, needed: int) -> str:
    limit = context.options.memory_bytes
    memory = available_memory_bytes() if limit is None else limit
    if needed <= memory:
        return "they fit into memory"
    return f"they do not fit into {format_memory(memory)} of memory and are read from the disc each time"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _kept_checks(path: Path, wanted: WantedImages) -> _KeptChecks | None:
    """Return what was found in as many images with the same mask when the job began."""
    if not path.exists():
        return None
    try:
        kept = states.load(path, _KeptChecks)
    except FormatError:  # a machine that lost its power leaves such files
        return None
    is_same = len(kept.checks) == len(wanted) and kept.mask_radius_pixel == wanted.mask_radius_pixel
    return kept if is_same else None


def _check_unchanged(before: ImageChecks, now: ImageChecks) -> None:
    """Refuse images that are not those that a job began with; stacks may have been moved or copied."""
    is_other = before.problem != now.problem
    for name in ("mean", "deviation", "background_mean", "background_deviation"):
        # sums of float32 in another order differ by 1e-7 of the deviation
        close = np.abs(getattr(now, name) - getattr(before, name)) <= 1e-5 * before.deviation
        is_other |= ~close & (before.problem == "")
    if is_other.any():
        raise InconsistentDataError(
            f"The images must be those that the job began with; got {int(is_other.sum())} others among "
            f"{len(is_other)}; bring the stacks back as they were, or begin a new job."
        )


def _in_one_file(wanted: WantedImages, path: Path) -> WantedImages:
    return WantedImages(
        grid=wanted.grid,
        headers=(read_header(path),),
        file=np.zeros(len(wanted), dtype=np.int64),
        section=np.arange(len(wanted)),
        mask_radius_pixel=wanted.mask_radius_pixel,
    )


def _source(wanted: WantedImages, cache: ImageCache | None, checks: ImageChecks) -> ReadImages:
    if cache is not None:
        source: ImageSource = MappedStacks(headers=(read_header(cache.path),), grid=wanted.grid)
        return ReadImages(source=source, index=np.arange(len(wanted)), checks=checks, cache=cache)
    if all(map(can_be_mapped, wanted.headers)):
        mapped = MappedStacks(headers=wanted.headers, grid=wanted.grid)
        return ReadImages(source=mapped, index=mapped.first[wanted.file] + wanted.section, checks=checks, cache=None)
    paths = [str(header.path) for header in wanted.headers]
    pairs = zip(wanted.file.tolist(), wanted.section.tolist(), strict=True)
    names = np.array([f"{section + 1}@{paths[file]}" for file, section in pairs], dtype=object)
    source = StackSource(names, grid=wanted.grid)
    return ReadImages(source=source, index=np.arange(len(wanted)), checks=checks, cache=None)


def _pass(context: JobContext, wanted: WantedImages, copy: MrcHeader | None) -> ImageChecks:
    image_bytes = wanted.grid.n_pixels * 4
    step = images_of_whole_pages(copy.section_bytes) if copy is not None else 1
    chunk_bytes = _CHUNK_BYTES
    if context.options.memory_bytes is not None:
        chunk_bytes = min(chunk_bytes, context.options.memory_bytes // context.executor.n_workers // _COPIES_OF_A_CHUNK)
    per_chunk = max(1, chunk_bytes // image_bytes // step) * step
    starts = range(0, len(wanted), per_chunk)
    needed = _COPIES_OF_A_CHUNK * min(per_chunk, len(wanted)) * image_bytes
    context.expect_memory(needed, "reading and checking images", n_tasks=len(starts))
    chunks = [_Chunk(images=wanted.part(slice(start, start + per_chunk)), first=start, copy=copy) for start in starts]
    label = "Checking images" if copy is None else "Checking and copying images"
    return ImageChecks.concatenate(
        list(context.executor.map(_check_chunk, chunks, progress=context.progress, label=label))
    )


def _check_chunk(chunk: _Chunk) -> ImageChecks:
    """Read, copy and check some images."""
    wanted = chunk.images
    images = np.zeros((len(wanted), *wanted.grid.shape), dtype=np.float32)
    lost: dict[int, str] = {}
    for file, header in enumerate(wanted.headers):
        rows = np.flatnonzero(wanted.file == file)
        try:
            images[rows] = read_sections(header, wanted.section[rows])
        except (OSError, FormatError):
            for row in rows.tolist():
                lost.update(_read_alone(header, int(wanted.section[row]), images, row))
    if chunk.copy is not None:
        write_images(chunk.copy, chunk.first, images)
    checks = check_images(images, wanted.mask_radius_pixel)
    for row, reason in lost.items():
        checks.problem[row] = reason
    return checks


def _read_alone(header: MrcHeader, section: int, images: Float32Array, row: int) -> dict[int, str]:
    try:
        images[row] = read_sections(header, np.array([section]))[0]
    except OSError as error:
        return {row: f"it cannot be read: {error.strerror or error}"}
    except FormatError as error:
        return {row: f"it cannot be read: {error}"}
    return {}
