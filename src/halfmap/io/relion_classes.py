"""2D classifications as files: those of halfmap and of RELION 3.0 to 5, by EM or VDAM."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.class_averages import ClassAverages, ClassRun
from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError, InconsistentDataError
from halfmap.grid import ImageGrid
from halfmap.io import relion, star
from halfmap.io.mrc import StackSource, read_header
from halfmap.io.relion_classes_writer import (
    NO_SCORE,
    SPECTRA,
    class_table,
    write_class_averages,
    write_class_run,
)
from halfmap.io.relion_columns import CLASS_FIELDS, decode
from halfmap.io.relion_models import NOT_KNOWN
from halfmap.io.relion_paths import path_of_image, resolve_paths
from halfmap.io.relion_runs import OPTIMISER, PARTS, first_number, noise_model, part_of_run, spectrum, with_groups

__all__ = [
    "class_table",
    "newest_optimiser",
    "particle_table",
    "read_class_run",
    "write_class_averages",
    "write_class_run",
]

_ITERATION = re.compile(r"_it(\d+)_optimiser\.star$")


def newest_optimiser(folder: str | Path) -> Path:
    """Return the optimiser file of the last iteration in a folder.

    Raises
    ------
    FormatError
        The folder has none.
    """
    found = [
        (int(match[1]), path.stat().st_mtime_ns, path)
        for path in Path(folder).glob(f"*{OPTIMISER}")
        if (match := _ITERATION.search(path.name))
    ]
    if not found:
        others = sorted(path.name for path in Path(folder).iterdir())[:5]
        raise FormatError(
            folder,
            expected="a 2D classification: files such as run_it025_optimiser.star",
            found=f"a folder with {', '.join(others)}" if others else "an empty folder",
            remedy="name the folder of a 2D classification, Class2D/jobNNN",
        )
    return max(found)[2]


def read_class_run(path: str | Path, *, project: str | Path = ".") -> ClassRun:
    """Read a 2D classification.

    Parameters
    ----------
    path : the folder (its last iteration is read), or the ``_optimiser.star``, ``_model.star`` or ``_data.star`` of
        an iteration. The other files of the iteration must lie beside it or where the optimiser says.
    project : the folder to which paths in the files are relative; others are tried as in `resolve_paths`.

    Returns
    -------
    ClassRun
        Columns of particles that halfmap does not know stay as text. ``n_particles`` counts hard assignments; spectra
        reach to the last shell of the box; FRC and score are nan where the files have none. ``unmasked_average`` is
        there only for the last iteration of a run that wrote it. Steps, range and shifts of the search are nan for
        iteration 0 of RELION, which says nothing of them.

    Raises
    ------
    FormatError
        It is no 2D classification, and what it is instead; or files are missing or contradict each other.

    Notes
    -----
    RELION states the steps of its first pass; the fine ones are half as wide for each order of oversampling. Before 3.1
    it counts offsets in pixels. Before 4 noise spectra belong to micrographs: those of an optics group are
    averaged, weighted by their particles. Moments of VDAM runs are passed over.
    """
    project = Path(project)
    files = _files(Path(path), project)
    optimiser_path, model_path, data_path = files.optimiser, files.model, files.data
    state, settings = files.state, files.settings
    file = star.read(model_path)
    if "model_general" not in file or "model_classes" not in file:
        raise _other_kind(model_path, file)
    model = {table.name: table for table in file}
    general = file["model_general"]
    if first_number(general, "rlnReferenceDimensionality") != 2:
        raise FormatError(model_path, expected="a 2D classification", found="a 3D classification or refinement")
    is_before_31 = "rlnSigmaOffsetsAngst" not in general
    pixel_size = first_number(general, "rlnPixelSize")
    in_pixels = pixel_size if is_before_31 else 1.0
    particles = with_groups(relion.read_particles(data_path), model, data_path)
    averages = _averages(file, optimiser_path, project, pixel_size, is_before_31)
    averages = averages.with_columns(n_particles=_counted(particles, len(averages), data_path))
    sampling = star.read(files.sampling)["sampling_general"] if files.sampling is not None else None
    psi_step, offset_range, offset_step = _steps(sampling, settings, in_pixels)
    perturbation, perturbation_factor = _perturbations(sampling)
    is_vdam = settings.get("rlnDoStochasticGradientDescent", "0") == "1"
    return ClassRun(
        averages=averages,
        particles=particles,
        noise=noise_model(model, particles, averages.grid.side // 2 + 1),
        mask_diameter_angstrom=first_number(state, "rlnParticleDiameter"),
        iteration=int(first_number(state, "rlnCurrentIteration")),
        n_iterations=int(first_number(state, "rlnNumberOfIterations")),
        algorithm=settings.get("halfmapAlgorithm", "vdam" if is_vdam else "em"),
        regularisation=first_number(general, "rlnTau2FudgeFactor"),
        psi_step_degrees=psi_step,
        offset_range_angstrom=offset_range,
        offset_step_angstrom=offset_step,
        offset_sigma_angstrom=first_number(general, "rlnSigmaOffsets" if is_before_31 else "rlnSigmaOffsetsAngst")
        * in_pixels,
        current_size_pixel=int(first_number(general, "rlnCurrentImageSize")),
        mean_norm=first_number(general, "rlnNormCorrectionAverage"),
        log_likelihood=first_number(general, "rlnLogLikelihood"),
        mean_max_probability=first_number(general, "rlnAveragePmax"),
        seed=int(first_number(state, "rlnRandomSeed")),
        perturbation=perturbation,
        perturbation_factor=perturbation_factor,
        settings=settings,
    )


def particle_table(path: str | Path, *, project: str | Path = ".") -> Path:
    """Return the ``_data.star`` of a 2D classification: its particles with classes and poses.

    Parameters
    ----------
    path, project : as of `read_class_run`.

    Raises
    ------
    FormatError
        It is no 2D classification, or files are missing.
    """
    return _files(Path(path), Path(project)).data


@dataclass(frozen=True, kw_only=True, eq=False)
class _Files:
    """The files of an iteration, and what its optimiser file says."""

    optimiser: Path
    model: Path
    data: Path
    sampling: Path | None
    state: star.StarTable
    settings: Mapping[str, str]


def _files(path: Path, project: Path) -> _Files:
    optimiser_path = newest_optimiser(path) if path.is_dir() else _optimiser_of(path)
    optimiser = star.read(optimiser_path)
    if "optimiser_general" not in optimiser:
        raise _other_kind(optimiser_path, optimiser)
    state = optimiser["optimiser_general"]
    settings = {label: str(state.text(label)[0]) for label in state.labels}
    if settings.get("rlnDoAutoRefine", "0") != "0":
        raise FormatError(optimiser_path, expected="a 2D classification", found="a 3D refinement of RELION")
    model_path = part_of_run(optimiser_path, settings, "rlnModelStarFile", "_model.star", project)
    data_path = part_of_run(optimiser_path, settings, "rlnExperimentalDataStarFile", "_data.star", project)
    if model_path is None or data_path is None:
        label, ending = (
            ("rlnModelStarFile", "_model.star") if model_path is None else ("rlnExperimentalDataStarFile", "_data.star")
        )
        raise FormatError(
            optimiser_path,
            expected=f"the file {settings.get(label) or ending} of its iteration where it says, or beside it",
            found="none",
            remedy="bring back the files of the iteration",
        )
    return _Files(
        optimiser=optimiser_path,
        model=model_path,
        data=data_path,
        sampling=part_of_run(optimiser_path, settings, "rlnOrientSamplingStarFile", "_sampling.star", project),
        state=state,
        settings=settings,
    )


def _optimiser_of(path: Path) -> Path:
    """Return the optimiser file of the iteration to which a file belongs."""
    for ending in PARTS:
        if path.name.endswith(ending):
            beside = path.with_name(path.name.removesuffix(ending) + OPTIMISER)
            if beside.is_file():
                return beside
            raise FormatError(
                path,
                expected=f"the other files of a 2D classification beside it, such as {beside.name}",
                found="none",
                remedy="bring them back, or name the folder of the classification",
            )
    if path.suffix in (".mrc", ".mrcs"):
        found = "an MRC file"
        raise FormatError(path, expected="a 2D classification", found=found, remedy="name its _optimiser.star")
    raise _other_kind(path, star.read(path))


def _other_kind(path: Path, file: star.StarFile) -> FormatError:
    """Return the error about a file that belongs to no classification, naming what it is."""
    kinds = {
        "optimiser_general": "the optimiser of a refinement",
        "job": "the settings of a RELION job",
        "pipeline_general": "RELION's pipeline",
        "micrographs": "a table of micrographs",
        "particles": "a table of particles without classes beside it",
        "coordinate_files": "a list of picks",
        "model_pdf_orient_class_1": "a 3D model",
    }
    labels = {label for table in file for label in table.labels}
    found = next((kind for name, kind in kinds.items() if name in file), "")
    if not found and "rlnReferenceImage" in labels:
        found = "a table of class averages, which does not say which particles are in them"
    if not found and "rlnImageName" in labels:
        found = kinds["particles"]
    found = found or f"a STAR file of {', '.join(f'data_{name}' for name in file.names) or 'nothing'}"
    return FormatError(
        path,
        expected="a 2D classification: its folder or one of its files run_itNNN_{optimiser,model,data}.star",
        found=found,
        remedy="name the folder Class2D/jobNNN",
    )


def _averages(
    model: star.StarFile, optimiser_path: Path, project: Path, pixel_size: float, is_before_31: bool
) -> ClassAverages:
    table = model["model_classes"]
    table.raw("rlnReferenceImage")  # raises, naming file and label
    decoded = decode(table, CLASS_FIELDS)
    known = {field.column for field in CLASS_FIELDS}
    columns = {name: values for name, values in decoded.columns.items() if name in known}
    if is_before_31 and "rlnAccuracyTranslations" in table:
        in_pixels = table.numbers("rlnAccuracyTranslations")
        columns["offset_accuracy_angstrom"] = in_pixels * np.where(in_pixels < NOT_KNOWN, pixel_size, 1.0)
    for name, unknown in (
        ("rotation_accuracy_degrees", np.nan),
        ("offset_accuracy_angstrom", np.nan),
        ("ssnr_resolution_angstrom", np.inf),
    ):
        if name in columns:
            columns[name] = np.where(columns[name] >= NOT_KNOWN, unknown, columns[name])
    if "score" in columns:
        columns["score"] = np.where(columns["score"] <= NO_SCORE, np.nan, columns["score"])
    columns["class_number"] = np.arange(1, len(table) + 1)
    stack = _images(columns["image_name"], model.path or optimiser_path, project, pixel_size)
    columns["average"] = stack.read(np.arange(len(table)))
    unmasked = _unmasked(optimiser_path, stack.grid, len(table))
    if unmasked is not None:
        columns["unmasked_average"] = unmasked
    return ClassAverages(columns=columns | _spectra(model, len(table), stack.grid), grid=stack.grid)


def _images(names: NDArray, model_path: Path, project: Path, pixel_size: float) -> StackSource:
    try:
        root = resolve_paths(model_path, project, names)
        found = list(names)
    except FormatError:
        root = model_path.parent
        if not all((root / Path(path_of_image(str(name))).name).is_file() for name in names):
            raise
        found = [str(name).replace(path_of_image(str(name)), Path(path_of_image(str(name))).name) for name in names]
    sides = read_header(root / path_of_image(str(found[0]))).shape[1:]
    return StackSource(found, root, ImageGrid(shape=sides, pixel_size_angstrom=pixel_size))


def _unmasked(optimiser_path: Path, grid: ImageGrid, n_classes: int) -> NDArray[np.float32] | None:
    """Return the averages without mask, which are of the last iteration, where it is the last that is read."""
    prefix = _ITERATION.sub("", optimiser_path.name)
    path = optimiser_path.with_name(f"{prefix}_unmasked_classes.mrcs")
    others = [_ITERATION.search(other.name) for other in optimiser_path.parent.glob(f"{prefix}_it*{OPTIMISER}")]
    last = max((int(match[1]) for match in others if match), default=-1)
    mine = _ITERATION.search(optimiser_path.name)
    if mine is None or int(mine[1]) != last or not path.is_file():
        return None
    if read_header(path).shape != (n_classes, *grid.shape):
        return None
    numbers = range(1, n_classes + 1)
    return StackSource([f"{number}@{path.name}" for number in numbers], path.parent, grid).read(np.arange(n_classes))


def _spectra(model: star.StarFile, n_classes: int, grid: ImageGrid) -> dict[str, NDArray[np.float64]]:
    tables = {table.name: table for table in model}
    spectra = {name: np.zeros((n_classes, grid.side // 2 + 1)) for name in SPECTRA}
    has_all = set(SPECTRA)
    for row in range(n_classes):
        table = tables.get(f"model_class_{row + 1}")
        if table is None:
            raise FormatError(
                model.path or "model", expected=f"a block data_model_class_{row + 1}", found="none of that name"
            )
        for name, label in SPECTRA.items():
            if label in table:
                spectra[name][row] = spectrum(table, label, grid.side // 2 + 1)
            else:
                has_all.discard(name)
    frc = spectra["frc"]
    frc[~frc.any(axis=1)] = np.nan
    return {name: spectra[name] for name in SPECTRA if name in has_all}


def _counted(particles: ParticleSet, n_classes: int, data_path: Path) -> NDArray[np.int64]:
    numbers = particles.get("class_number", 0)
    if len(numbers) and (numbers.min() < 0 or numbers.max() > n_classes):
        raise InconsistentDataError(
            f"Particles of {data_path} must be in one of the {n_classes} classes of the model; got number "
            f"{numbers.max() if numbers.max() > n_classes else numbers.min()}; read files of one iteration."
        )
    return np.bincount(numbers, minlength=n_classes + 1)[1:]


def _steps(
    sampling: star.StarTable | None, settings: Mapping[str, str], in_pixels: float
) -> tuple[float, float, float]:
    """Return fine angular step in degrees, search range and fine step of offsets in Å."""
    if sampling is None:
        return np.nan, np.nan, np.nan
    finer = 0.5 ** int(settings.get("rlnAdaptiveOversampleOrder", "1"))
    return (
        first_number(sampling, "rlnPsiStep") * finer,
        first_number(sampling, "rlnOffsetRange") * in_pixels,
        first_number(sampling, "rlnOffsetStep") * in_pixels * finer,
    )


def _perturbations(sampling: star.StarTable | None) -> tuple[float, float]:
    """Return the last and the largest shift of the sampling; nan where a file does not tell."""
    now, most = (
        first_number(sampling, label) if sampling is not None and label in sampling else np.nan
        for label in ("rlnSamplingPerturbInstance", "rlnSamplingPerturbFactor")
    )
    return now, most
