"""3D refinements as files: those of halfmap and of RELION 3.0 to 5."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.data.refinement_run import RefinedHalf, RefinementRun
from halfmap.data.table import Table
from halfmap.data.volumes import Volume
from halfmap.errors import FormatError, InconsistentDataError
from halfmap.io import mrc, relion, star
from halfmap.io.relion_models import NOT_KNOWN
from halfmap.io.relion_paths import resolve_paths
from halfmap.io.relion_refinement_writer import (
    HALVES,
    HISTORY,
    UNMASKED_FSC,
    write_angular_distribution,
    write_refinement_run,
)
from halfmap.io.relion_runs import OPTIMISER, first_number, noise_model, part_of_run, spectrum, with_groups

__all__ = [
    "band_side_pixel",
    "newest_stem",
    "particle_table",
    "read_refinement_run",
    "write_angular_distribution",
    "write_refinement_run",
]

_PERTURBATION = "rlnSamplingPerturbInstance"
_FACTOR = "rlnSamplingPerturbFactor"
_ITERATION = re.compile(r"_it(\d+)$")
_ENDINGS = (
    *("_half1_model.star", "_half2_model.star", "_half1_class001_unfil.mrc", "_half2_class001_unfil.mrc"),
    *("_half1_class001.mrc", "_half2_class001.mrc", "_class001.mrc"),
    *(OPTIMISER, "_model.star", "_data.star", "_sampling.star"),
)


def newest_stem(folder: str | Path) -> Path:
    """Return what the names of a refinement's last files begin with: ``run``, or ``run_it012`` if it did not end.

    Raises
    ------
    FormatError
        The folder has no refinement.
    """
    folder = Path(folder)
    ended = [
        path.with_name(path.name.removesuffix("_data.star"))
        for path in folder.glob("*_data.star")
        if not _ITERATION.search(path.name.removesuffix("_data.star"))
        and path.with_name(path.name.removesuffix("_data.star") + "_half1_class001_unfil.mrc").is_file()
    ]
    if ended:
        return max(ended, key=lambda stem: _with_ending(stem, "_data.star").stat().st_mtime_ns)
    numbered = [
        (int(match[1]), path.stat().st_mtime_ns, stem)
        for path in folder.glob(f"*{OPTIMISER}")
        if (match := _ITERATION.search((stem := path.with_name(path.name.removesuffix(OPTIMISER))).name))
    ]
    if not numbered:
        others = sorted(path.name for path in folder.iterdir())[:5]
        raise FormatError(
            folder,
            expected="a 3D refinement: files such as run_data.star or run_it012_optimiser.star",
            found=f"a folder with {', '.join(others)}" if others else "an empty folder",
            remedy="name the folder of a 3D refinement, Refine3D/jobNNN",
        )
    return max(numbered)[2]


def read_refinement_run(path: str | Path, *, project: str | Path = ".") -> RefinementRun:
    """Read a 3D refinement.

    Parameters
    ----------
    path : the folder (what it ended with is read, or its last iteration), or one of the files of an iteration or of
        the end. The others must lie beside it or where the optimiser says.
    project : the folder to which paths in the files are relative; others are tried as in `resolve_paths`.

    Returns
    -------
    RefinementRun
        Columns of particles that halfmap does not know stay as text. The history is empty for runs of RELION. At the
        end of a run only unregularised half maps are left; ``map`` of a half is then that of its last numbered
        iteration, or the unregularised one where that is gone.

    Raises
    ------
    FormatError
        It is no 3D refinement, and what it is instead; or files are missing or contradict each other.
    InconsistentDataError
        Particles have no halves.

    Notes
    -----
    RELION states the steps of its first pass; the fine ones are half as wide for each order of oversampling. RELION
    leaves only the model of all particles at the end: both halves then have its noise and signal-to-noise ratio.
    """
    project = Path(project)
    stem = _stem(Path(path))
    files = _files(stem, project)
    settings = files.settings
    first = files.models[0]
    general, classes = first["model_general"], first["model_classes"]
    is_before_31 = "rlnSigmaOffsetsAngst" not in general
    pixel_size = first_number(general, "rlnPixelSize")
    in_pixels = pixel_size if is_before_31 else 1.0
    particles = with_groups(relion.read_particles(files.data), _tables(first), files.data)
    if "random_subset" not in particles:
        raise InconsistentDataError(
            f"Particles of a 3D refinement must have half-sets, _rlnRandomSubset; got none in {files.data}; read the "
            "data file of a refinement with halves."
        )
    halves = (
        _half(files, 1, particles, pixel_size, in_pixels, project),
        _half(files, 2, particles, pixel_size, in_pixels, project),
    )
    n_shells = halves[0].map.grid.side // 2 + 1
    of_class = first["model_class_1"]
    used_fsc = spectrum(of_class, "rlnGoldStandardFsc", n_shells)
    sampling = star.read(files.sampling)["sampling_general"]
    finer = 0.5 ** int(settings.get("rlnAdaptiveOversampleOrder", "1"))
    accuracy = "rlnAccuracyTranslations" if is_before_31 else "rlnAccuracyTranslationsAngst"
    joined = _with_ending(files.stem, "_class001.mrc")
    join_resolution = float(settings.get("rlnJoinHalvesUntilThisResolution", "-1"))
    is_final = files.joint is not None
    return RefinementRun(
        particles=particles,
        halves=halves,
        joined=mrc.read_volume(joined, pixel_size) if is_final and joined.is_file() else None,
        fsc=spectrum(of_class, UNMASKED_FSC, n_shells) if UNMASKED_FSC in of_class else used_fsc,
        used_fsc=used_fsc,
        symmetry=str(sampling.text("rlnSymmetryGroup")[0]),
        mask_diameter_angstrom=float(settings["rlnParticleDiameter"]),
        iteration=int(settings["rlnCurrentIteration"]),
        healpix_order=int(first_number(sampling, "rlnHealpixOrder")),
        is_local=settings.get("halfmapIsLocalSearch", str(int(first_number(general, "rlnOrientationalPriorMode"))))
        != "0",
        offset_range_angstrom=first_number(sampling, "rlnOffsetRange") * in_pixels,
        offset_step_angstrom=first_number(sampling, "rlnOffsetStep") * in_pixels * finer,
        rotation_accuracy_degrees=_known(first_number(classes, "rlnAccuracyRotations"), np.nan),
        offset_accuracy_angstrom=_known(first_number(classes, accuracy), np.nan) * in_pixels,
        resolution_angstrom=_known(first_number(general, "rlnCurrentResolution"), np.inf),
        current_size_pixel=int(first_number(general, "rlnCurrentImageSize")),
        regularisation=first_number(general, "rlnTau2FudgeFactor"),
        padding=first_number(general, "rlnPaddingFactor"),
        join_resolution_angstrom=join_resolution if join_resolution > 0 else np.inf,
        perturbation=first_number(sampling, _PERTURBATION) if _PERTURBATION in sampling else 0.0,
        perturbation_factor=first_number(sampling, _FACTOR) if _FACTOR in sampling else 0.5,
        is_final=is_final,
        seed=int(settings.get("rlnRandomSeed", "1")),
        settings=settings,
        history=files.history,
    )


def particle_table(path: str | Path, *, project: str | Path = ".") -> Path:
    """Return the ``_data.star`` of a 3D refinement: its particles with poses and halves.

    Parameters
    ----------
    path, project : as of `read_refinement_run`.

    Raises
    ------
    FormatError
        It is no 3D refinement, or files are missing.
    """
    return _files(_stem(Path(path)), Path(project)).data


def band_side_pixel(half_map: str | Path, side: int) -> int | None:
    """Return the side of the box that the band of a refinement's half map corresponds to.

    Parameters
    ----------
    half_map : ``run_half1_class001_unfil.mrc`` and the like.
    side : of the map, in pixels.

    Returns
    -------
    ``rlnCurrentImageSize`` of the model file beside it; None where there is none, or it is of another box.
    """
    half_map = Path(half_map)
    stem, found, _ = half_map.name.rpartition("_half")
    for ending in ("_model.star", f"_half{half_map.name[len(stem) + len(found) :][:1]}_model.star"):
        path = half_map.with_name(stem + ending)
        if found and path.is_file():
            general = star.read(path)["model_general"]
            is_of_map = int(first_number(general, "rlnOriginalImageSize")) == side
            return int(first_number(general, "rlnCurrentImageSize")) if is_of_map else None
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Files:
    """The files of an iteration or of the end, and what its optimiser file says."""

    stem: Path
    data: Path
    sampling: Path
    models: tuple[star.StarFile, star.StarFile]
    joint: star.StarFile | None
    settings: Mapping[str, str]
    history: Table


def _stem(path: Path) -> Path:
    """Return what the names of all files of the iteration begin with."""
    if path.is_dir():
        return newest_stem(path)
    for ending in _ENDINGS:
        if path.name.endswith(ending):
            return path.with_name(path.name.removesuffix(ending))
    if path.suffix in (".mrc", ".map", ".mrcs"):
        raise FormatError(path, expected="a 3D refinement", found="an MRC file", remedy="name its folder")
    raise _other_kind(path, f"a file of blocks {', '.join(star.read(path).names) or 'without name'}")


def _files(stem: Path, project: Path) -> _Files:
    is_numbered = _ITERATION.search(stem.name) is not None
    optimiser = _with_ending(stem, OPTIMISER)
    if not is_numbered and not optimiser.is_file():  # RELION 3.1 leaves none at the end
        numbered = sorted(stem.parent.glob(f"{stem.name}_it*{OPTIMISER}"))
        optimiser = numbered[-1] if numbered else optimiser
    if not optimiser.is_file():
        raise _missing(stem, OPTIMISER)
    file = star.read(optimiser)
    if "optimiser_general" not in file:
        raise _other_kind(optimiser, f"a file of blocks {', '.join(file.names)}")
    state = file["optimiser_general"]
    settings = {label: str(state.text(label)[0]) for label in state.labels}
    if settings.get("rlnDoSplitRandomHalves", "0") == "0":
        raise _other_kind(optimiser, "a classification, whose particles share their references")

    def found(label: str, ending: str) -> Path:
        own = _with_ending(stem, ending)
        path = own if own.is_file() or not is_numbered else part_of_run(optimiser, settings, label, ending, project)
        if path is None or not path.is_file():
            raise _missing(stem, ending)
        return path

    joint = None
    if is_numbered:
        labels = ("rlnModelStarFile", "rlnModelStarFile2")
        paths = [found(label, f"_half{number}_model.star") for label, number in zip(labels, HALVES, strict=True)]
    else:
        joint = star.read(found("rlnModelStarFile", "_model.star"))
        own = [_with_ending(stem, f"_half{number}_model.star") for number in HALVES]
        paths = [path if path.is_file() else _with_ending(stem, "_model.star") for path in own]
    models = [star.read(path) for path in paths]
    for path, model in zip(paths, models, strict=True):
        if "model_general" not in model or "model_class_1" not in model:
            raise _other_kind(path, f"a file of blocks {', '.join(model.names)}")
    columns = {label: file[HISTORY].numbers(label) for label in file[HISTORY].labels} if HISTORY in file else {}
    return _Files(
        stem=stem,
        data=found("rlnExperimentalDataStarFile", "_data.star"),
        sampling=found("rlnOrientSamplingStarFile", "_sampling.star"),
        models=(models[0], models[1]),
        joint=joint,
        settings=settings,
        history=Table(columns=columns),
    )


def _half(
    files: _Files, number: int, particles: ParticleSet, pixel_size: float, in_pixels: float, project: Path
) -> RefinedHalf:
    model = files.models[number - 1]
    unregularised_path = _with_ending(files.stem, f"_half{number}_class001_unfil.mrc")
    unregularised = mrc.read_volume(unregularised_path, pixel_size) if unregularised_path.is_file() else None
    volume = _regularised(files, number, pixel_size, project, unregularised)
    n_shells = volume.grid.side // 2 + 1
    of_class = model["model_class_1"]
    general = model["model_general"]
    sigma = "rlnSigmaOffsetsAngst" if "rlnSigmaOffsetsAngst" in general else "rlnSigmaOffsets"
    return RefinedHalf(
        map=volume,
        unregularised=unregularised,
        noise=noise_model(_tables(model), particles.take(particles["random_subset"] == number), n_shells),
        ssnr=spectrum(of_class, "rlnSsnrMap", n_shells),
        error_variance=_spectrum_where_known(of_class, "rlnReferenceSigma2", n_shells) / volume.grid.side**2,
        completeness=_spectrum_where_known(of_class, "rlnFourierCompleteness", n_shells),
        offset_sigma_angstrom=first_number(general, sigma) * in_pixels,
    )


def _regularised(files: _Files, number: int, pixel_size: float, project: Path, unregularised: Volume | None) -> Volume:
    """Return the map that images were compared with last."""
    if files.joint is None:
        model = files.models[number - 1]
        name = str(model["model_classes"].text("rlnReferenceImage")[0])
        beside = _with_ending(files.stem, f"_half{number}_class001.mrc")
        if beside.is_file():
            return mrc.read_volume(beside, pixel_size)
        return mrc.read_volume(resolve_paths(model.path or files.data, project, [name]) / name, pixel_size)
    numbered = sorted(files.stem.parent.glob(f"{files.stem.name}_it*_half{number}_class001.mrc"))
    if numbered:
        last = mrc.read_volume(numbered[-1], pixel_size)
        if unregularised is None or last.grid == unregularised.grid:
            return last
    if unregularised is None:
        raise _missing(files.stem, f"_half{number}_class001_unfil.mrc")
    return unregularised


def _tables(model: star.StarFile) -> dict[str, star.StarTable]:
    return {table.name: table for table in model}


def _spectrum_where_known(table: star.StarTable, label: str, n_shells: int) -> NDArray[np.float64]:
    return spectrum(table, label, n_shells) if label in table else np.zeros(n_shells)


def _known(value: float, otherwise: float) -> float:
    return value if value < NOT_KNOWN else otherwise


def _with_ending(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _missing(stem: Path, ending: str) -> FormatError:
    return FormatError(
        stem.parent,
        expected=f"the file {stem.name}{ending} of the 3D refinement",
        found="none",
        remedy="bring back the files of the iteration, or name the folder of another refinement",
    )


def _other_kind(path: Path, found: str) -> FormatError:
    return FormatError(
        path,
        expected="a 3D refinement: its folder or one of its files run_itNNN_{optimiser,data,sampling}.star",
        found=found,
        remedy="name the folder Refine3D/jobNNN",
    )
