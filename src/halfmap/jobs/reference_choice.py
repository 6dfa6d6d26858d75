"""Which maps a job's folder, or the name of one half map, stands for when a refinement begins with it."""

import re
from dataclasses import dataclass
from pathlib import Path

from halfmap.errors import FormatError, InputError
from halfmap.io import star
from halfmap.io.relion_paths import resolve_paths
from halfmap.jobs.half_map_inputs import halves_by_name

_MAP_ENDINGS = (".mrc", ".map", ".ccp4", ".rec")
_ITERATION = re.compile(r"_it(\d+)_")
_CLASS = re.compile(r"_class(\d+)\.mrc$")
_NAMED_FILES = 5


@dataclass(frozen=True, kw_only=True)
class ReferenceChoice:
    """Which files are the reference.

    Parameters
    ----------
    paths : one map, or the two halves.
    why : what was chosen, a sentence; empty for a file that stands for itself.
    missing : halves that are not there although the name of the one given says that there are two.
    """

    paths: tuple[Path, ...]
    why: str = ""
    missing: tuple[Path, ...] = ()


def choose_reference(path: Path, project: Path = Path()) -> ReferenceChoice:
    """Choose the maps that a file or a job's folder stands for.

    Parameters
    ----------
    path : of a map or a folder.
    project : the folder to which paths in a job's files are relative.

    Notes
    -----
    Of a folder, the first that there is: the half maps that post-processing names; unfiltered half maps; a finished
    initial model; the half maps of the last iteration; a finished map; the largest class of the last iteration; the
    only map.

    Raises
    ------
    InputError
        The folder holds no map, or several of which none can be preferred.
    """
    if not path.is_dir():
        return _with_other_half(path)
    maps = sorted(one for one in path.iterdir() if one.suffix in _MAP_ENDINGS)
    numbered = {one: int(match[1]) for one in maps if (match := _ITERATION.search(one.name))}
    last = max(numbered.values(), default=-1)
    of_last = [one for one in maps if numbered.get(one) == last]
    finished = [one for one in maps if one not in numbered]

    def named(files: list[Path], text: str) -> list[Path]:
        return [one for one in files if text in one.name]

    halves = _halves_of_postprocessing(path, project)
    if halves is not None:
        return ReferenceChoice(
            paths=halves, why=f"Reference: the half maps that {path} post-processed, {halves[0]} and {halves[1].name}."
        )
    for files, what in (
        (named(named(finished, "half1"), "unfil"), "unfiltered half maps"),
        (named(finished, "initial_model"), "initial model"),
        (named(named(of_last, "half1"), "_class001.mrc"), f"half maps of iteration {last}"),
        (named(finished, "postprocess.mrc"), "post-processed map"),
        ([one for one in finished if one.name.endswith("_class001.mrc") and "half" not in one.name], "final map"),
    ):
        if len(files) == 1:
            choice = _with_other_half(files[0])
            both = " and ".join(one.name for one in choice.paths)
            return ReferenceChoice(
                paths=choice.paths, why=f"Reference: the {what} of {path}, {both}.", missing=choice.missing
            )
    classes = [one for one in of_last if _CLASS.search(one.name) and "half" not in one.name]
    if classes:
        return _largest_class(path, classes)
    plain = [one for one in finished if "mask" not in one.name]
    if len(plain) == 1:
        return ReferenceChoice(paths=(plain[0],), why=f"Reference: the map of {path}, {plain[0].name}.")
    raise _no_choice(path, plain or maps)


def _with_other_half(path: Path) -> ReferenceChoice:
    pair = halves_by_name(path)
    if pair is None:
        return ReferenceChoice(paths=(path,))
    missing = tuple(one for one in pair if not one.is_file())
    if missing:
        return ReferenceChoice(paths=(path,), missing=missing)
    return ReferenceChoice(paths=pair, why=f"Reference: a pair of half maps, {pair[0]} and {pair[1].name}.")


def _halves_of_postprocessing(folder: Path, project: Path) -> tuple[Path, Path] | None:
    """Return the half maps that a job of post-processing names, if they are still there."""
    path = folder / "postprocess.star"
    if not path.is_file():
        return None
    labels = ("rlnUnfilteredMapHalf1", "rlnUnfilteredMapHalf2")
    table = next((table for table in star.read(path) if all(label in table for label in labels)), None)
    if table is None:
        return None
    names = [str(table.text(label)[0]) for label in labels]
    try:
        root = resolve_paths(path, project, names)
    except FormatError:
        return None
    first, second = (root / name for name in names)
    return (first, second) if first.is_file() and second.is_file() else None


def _largest_class(folder: Path, classes: list[Path]) -> ReferenceChoice:
    if len(classes) == 1:
        return ReferenceChoice(paths=(classes[0],), why=f"Reference: the last map of {folder}, {classes[0].name}.")
    model = classes[0].with_name(_CLASS.sub("_model.star", classes[0].name))
    if not model.is_file():
        raise _no_choice(folder, classes)
    share = star.read(model)["model_classes"].numbers("rlnClassDistribution")
    share_of = {int(match[1]): one for one in classes if (match := _CLASS.search(one.name))}
    known = [number for number in share_of if number <= len(share)]
    if not known:
        raise _no_choice(folder, classes)
    best = max(known, key=lambda number: float(share[number - 1]))
    return ReferenceChoice(
        paths=(share_of[best],),
        why=f"Reference: the largest of {len(classes)} classes of {folder}, {share_of[best].name}, with "
        f"{100 * share[best - 1]:.0f} % of the particles; name the file of another to begin with that.",
    )


def _no_choice(folder: Path, maps: list[Path]) -> InputError:
    shown = ", ".join(one.name for one in maps[:_NAMED_FILES]) or "no map"
    more = f" and {len(maps) - _NAMED_FILES} more" if len(maps) > _NAMED_FILES else ""
    return InputError(
        f"{folder} must hold a map to begin with, as the folder of Refine3D, PostProcess, InitialModel or Class3D; got "
        f"{shown}{more}; name the file."
    )
