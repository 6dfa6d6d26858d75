"""What RELION's files of classifications and refinements have in common when they are read."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.class_averages import NoiseModel
from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError
from halfmap.io import star
from halfmap.io.relion_paths import resolve_paths

OPTIMISER = "_optimiser.star"
"""Ending of the file that says which others belong to an iteration."""

PARTS = ("_optimiser.star", "_model.star", "_data.star", "_sampling.star")
"""Endings of an iteration's files."""


def first_number(table: star.StarTable, label: str) -> float:
    """Return the number of a list, or of the first row of a loop."""
    return float(table.numbers(label)[0])


def part_of_run(optimiser: Path, settings: Mapping[str, str], label: str, ending: str, project: Path) -> Path | None:
    """Return a file that the optimiser names, from where paths hold, else of the same name beside it."""
    name = settings.get(label, "")
    if name:
        try:
            return resolve_paths(optimiser, project, [name]) / name
        except FormatError:
            beside = optimiser.with_name(Path(name).name)
            if beside.is_file():
                return beside
    beside = optimiser.with_name(optimiser.name.removesuffix(OPTIMISER) + ending)
    return beside if beside.is_file() else None


def spectrum(table: star.StarTable, label: str, n_shells: int) -> NDArray[np.float64]:
    """Return a spectrum by its shells: RELION leaves out those that were never used."""
    values = np.zeros(n_shells)
    shells = table.integers("rlnSpectralIndex")
    is_inside = (shells >= 0) & (shells < n_shells)
    values[shells[is_inside]] = table.numbers(label)[is_inside]
    return values


def with_groups(particles: ParticleSet, model: Mapping[str, star.StarTable], data_path: Path) -> ParticleSet:
    """Return particles with ``group_name``, from the model's table where the file has only numbers."""
    if "group_name" in particles:
        return particles
    if "group_number" in particles and "model_groups" in model:
        table = model["model_groups"]
        name_of = dict(zip(table.integers("rlnGroupNumber").tolist(), table.text("rlnGroupName"), strict=True))
        numbers = particles["group_number"].tolist()
        unknown = [number for number in numbers if number not in name_of]
        if unknown:
            raise FormatError(
                data_path,
                expected=f"groups of the model (1 to {len(name_of)})",
                found=f"number {unknown[0]}",
                remedy="read data and model of the same iteration",
            )
        return particles.with_columns(group_name=np.array([name_of[number] for number in numbers], dtype=object))
    return particles.with_columns(group_name=particles.get("micrograph_name", "group"))


def noise_model(model: Mapping[str, star.StarTable], particles: ParticleSet, n_shells: int) -> NoiseModel:
    """Return what a model says of noise and grey scales.

    Parameters
    ----------
    model : name → table of its file.
    particles : with group_name; where spectra belong to micrographs, these say how much each counts.
    n_shells : of the spectra; those that the file leaves out are 0.
    """
    optics = particles.optics.numbers
    groups = model.get("model_groups")
    if groups is None:
        names, scale, number_of = np.unique(particles["group_name"].astype(str)).astype(object), None, {}
    else:
        names, scale = groups.text("rlnGroupName"), groups.numbers("rlnGroupScaleCorrection")
        number_of = dict(zip(names, groups.integers("rlnGroupNumber").tolist(), strict=True))
    spectra = np.zeros((len(optics), n_shells))
    rows = particles.optics.rows_of(particles["optics_group"])
    of_particle = np.array([number_of.get(str(name), 0) for name in particles["group_name"]], dtype=np.int64)
    for row in range(len(optics)):
        table = model.get(f"model_optics_group_{row + 1}")
        if table is not None:
            spectra[row] = spectrum(table, "rlnSigma2Noise", n_shells)
            continue
        numbers, weights = np.unique(of_particle[rows == row], return_counts=True)
        found = [
            (model[f"model_group_{k}"], w) for k, w in zip(numbers, weights, strict=True) if f"model_group_{k}" in model
        ]
        if found:
            each = [spectrum(one, "rlnSigma2Noise", n_shells) for one, _ in found]
            spectra[row] = np.average(each, axis=0, weights=[weight for _, weight in found])
    return NoiseModel(
        optics_group=optics,
        noise_variance=spectra,
        group_name=names,
        group_scale=np.ones(len(names)) if scale is None else scale,
    )
