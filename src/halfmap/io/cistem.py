"""cisTEM's particle tables: a STAR file beside one stack of all images."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError
from halfmap.geometry.euler import array_from_euler, euler_from_array
from halfmap.io import star
from halfmap.io.relion_columns import number_texts

_OPTICS = {
    "pixel_size_angstrom": "cisTEMPixelSize",
    "voltage_kv": "cisTEMMicroscopeVoltagekV",
    "spherical_aberration_mm": "cisTEMMicroscopeCsMM",
    "amplitude_contrast": "cisTEMAmplitudeContrast",
}
_CTF = {
    "defocus_u_angstrom": "cisTEMDefocus1",
    "defocus_v_angstrom": "cisTEMDefocus2",
    "defocus_angle_degrees": "cisTEMDefocusAngle",
}
# What a particle has before cisTEM has looked at it.
_BEFORE_REFINEMENT = {
    "cisTEMImageActivity": "1",
    "cisTEMOccupancy": "100.0",
    "cisTEMSigma": "1.0",
    "cisTEMScore": "20.0",
    "cisTEMScoreChange": "0.0",
}
_ZERO = (
    "cisTEMBeamTiltX", "cisTEMBeamTiltY", "cisTEMImageShiftX", "cisTEMImageShiftY",
)  # fmt: skip


def is_particle_table(table: star.StarTable) -> bool:
    """Tell whether a STAR table holds particles of cisTEM."""
    return "cisTEMPositionInStack" in table


def write_particles(path: str | Path, particles: ParticleSet, *, stack_name: str | None) -> None:
    """Write particles for cisTEM.

    Parameters
    ----------
    path : the STAR file.
    particles : in the order of the images in the stack; with CTF and pixel size.
    stack_name : path of the one stack with their images, bright on dark; None where there are no images yet.

    Raises
    ------
    InconsistentDataError
        The CTF, the microscope or the pixel size is missing.

    Notes
    -----
    (phi, theta, psi) are RELION's (rot, tilt, psi). A shift of cisTEM is where the particle lies, so it is
    minus the origin, in Å. The phase shift is in radians. Beam tilt and image shift are written as 0. Positions in
    the micrograph are in Å from its first pixel, where the optics know the micrograph's pixel size.

    References
    ----------
    Grant, Rohou & Grigorieff 2018, eLife 7, e35383; labels and units of cisTEM's ``cisTEMParameters``.
    """
    for column in _CTF:
        if column not in particles:
            raise InconsistentDataError(
                f"Particles for cisTEM must have the column {column}; got none; give particles with a CTF."
            )
    for column in _OPTICS:
        if column not in particles.optics:
            raise InconsistentDataError(
                f"The optics table must have the column {column} to be written for cisTEM; got none; add it."
            )
    n = len(particles)
    phi, theta, psi = euler_from_array(particles.get("rotation", np.eye(3))).T
    shift = -particles.get("origin_angstrom", 0.0)
    texts: dict[str, list[str]] = {
        "cisTEMPositionInStack": [str(number) for number in range(1, n + 1)],
        "cisTEMAnglePsi": number_texts("psi", psi),
        "cisTEMAngleTheta": number_texts("theta", theta),
        "cisTEMAnglePhi": number_texts("phi", phi),
        "cisTEMXShift": number_texts("origin_angstrom", shift[:, 0]),
        "cisTEMYShift": number_texts("origin_angstrom", shift[:, 1]),
    }
    texts |= {label: number_texts(column, particles[column]) for column, label in _CTF.items()}
    phase_shift = np.deg2rad(particles.get("phase_shift_degrees", 0.0))
    texts["cisTEMPhaseShift"] = number_texts("phase_shift_degrees", phase_shift)
    texts["cisTEMImageActivity"] = [_BEFORE_REFINEMENT["cisTEMImageActivity"]] * n
    texts["cisTEMOccupancy"] = [_BEFORE_REFINEMENT["cisTEMOccupancy"]] * n
    texts["cisTEMLogP"] = number_texts("log_likelihood", particles.get("log_likelihood", -500.0))
    texts |= {label: [_BEFORE_REFINEMENT[label]] * n for label in ("cisTEMSigma", "cisTEMScore", "cisTEMScoreChange")}
    texts |= {label: number_texts(column, particles.optics_values(column)) for column, label in _OPTICS.items()}
    texts |= {label: ["0.0"] * n for label in _ZERO}
    texts["cisTEMBest2DClass"] = [str(number) for number in particles.get("class_number", 0).tolist()]
    texts["cisTEMBeamTiltGroup"] = [str(number) for number in particles["optics_group"].tolist()]
    if stack_name is not None:
        texts["cisTEMStackFilename"] = [stack_name] * n
    if "micrograph_name" in particles:
        texts["cisTEMOriginalImageFilename"] = [str(name) for name in particles["micrograph_name"]]
    if "position_pixel" in particles and "micrograph_pixel_size_angstrom" in particles.optics:
        position = particles["position_pixel"] * particles.optics_values("micrograph_pixel_size_angstrom")[:, None]
        texts |= {
            f"cisTEMOriginal{axis}Position": number_texts("origin_angstrom", position[:, i])
            for i, axis in enumerate("XY")
        }
    if "random_subset" in particles:
        texts["cisTEMAssignedSubset"] = [str(half) for half in particles["random_subset"].tolist()]
    columns = {label: star.compact_text(values) for label, values in texts.items()}
    star.write(path, [star.StarTable(name="", columns=columns)])


def read_particles(path: str | Path, *, stack_name: str | None = None) -> ParticleSet:
    """Read particles of cisTEM.

    Parameters
    ----------
    path : the STAR file.
    stack_name : the stack; needed where the table does not name it.

    Raises
    ------
    FormatError
        A column is missing or holds no numbers.
    InconsistentDataError
        Nothing names the stack.

    Notes
    -----
    As `write_particles`, the other way round.
    """
    file = star.read(path)
    table = next((table for table in file if is_particle_table(table)), file.tables[0] if len(file) else None)
    assert table is not None
    position = table.integers("cisTEMPositionInStack")
    if stack_name is not None:
        stacks = [stack_name] * len(table)
    elif "cisTEMStackFilename" in table and all(table.text("cisTEMStackFilename")):
        stacks = table.text("cisTEMStackFilename").tolist()
    else:
        raise InconsistentDataError(
            f"The stack of {path} must be known; got a table without _cisTEMStackFilename; give --stack."
        )
    columns: dict[str, NDArray] = {
        "image_name": np.array(
            [f"{number:06d}@{stack}" for number, stack in zip(position.tolist(), stacks, strict=True)], dtype=object
        )
    }
    angles = [
        table.numbers(label) if label in table else np.zeros(len(table))
        for label in ("cisTEMAnglePhi", "cisTEMAngleTheta", "cisTEMAnglePsi")
    ]
    columns["rotation"] = array_from_euler(*angles)
    columns["origin_angstrom"] = -np.stack([table.numbers(f"cisTEM{axis}Shift") for axis in "XY"], axis=-1)
    columns |= {column: table.numbers(label) for column, label in _CTF.items() if label in table}
    if "cisTEMPhaseShift" in table:
        columns["phase_shift_degrees"] = np.rad2deg(table.numbers("cisTEMPhaseShift"))
    for column, label in (("class_number", "cisTEMBest2DClass"), ("random_subset", "cisTEMAssignedSubset")):
        if label in table and np.any(table.integers(label) > 0):
            columns[column] = table.integers(label)
    if "cisTEMLogP" in table:
        columns["log_likelihood"] = table.numbers("cisTEMLogP")
    if "cisTEMOriginalImageFilename" in table and all(table.text("cisTEMOriginalImageFilename")):
        columns["micrograph_name"] = table.text("cisTEMOriginalImageFilename")
    optics, columns["optics_group"] = _optics(table)
    return ParticleSet(columns=columns, optics=optics)


def _optics(table: star.StarTable) -> tuple[OpticsGroups, NDArray[np.int64]]:
    values = {column: table.numbers(label) for column, label in _OPTICS.items() if label in table}
    group = table.integers("cisTEMBeamTiltGroup") if "cisTEMBeamTiltGroup" in table else np.ones(len(table))
    keys, inverse = np.unique(np.stack([group, *values.values()], axis=-1), axis=0, return_inverse=True)
    numbers = keys[:, 0].astype(np.int64)
    if len(np.unique(numbers)) != len(numbers) or np.any(numbers < 1):
        numbers = np.arange(1, len(keys) + 1)
    columns: dict[str, NDArray] = {"optics_group": numbers}
    columns |= {column: keys[:, place] for place, column in enumerate(values, start=1)}
    return OpticsGroups(columns=columns), numbers[inverse.reshape(-1)]
