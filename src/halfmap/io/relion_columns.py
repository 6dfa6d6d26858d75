"""Which columns of ours stand for which RELION labels, and how text becomes values and back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.data.table import Table
from halfmap.errors import InputError
from halfmap.geometry.euler import array_from_euler, euler_from_array
from halfmap.io.star_tables import StarTable, as_strings, bare_label

UID_LABEL = "halfmapUid"
_SMALL = 1e-3  # below it six decimals are too few figures


@dataclass(frozen=True, kw_only=True)
class Field:
    """A known column and its RELION labels.

    Parameters
    ----------
    column : our name.
    labels : RELION's, without underscore; the components of a vector in order.
    kind : ``number``, ``whole``, ``flag`` (0/1), ``text``, ``list`` ([a,b,c]) or ``euler``.
    finite : whether infinity and not-a-number are refused; fits that failed leave them in some columns.
    whole_only : whether Euler angles are known only with all three; else those that are missing are 0.
    """

    column: str
    labels: tuple[str, ...]
    kind: str = "number"
    finite: bool = True
    whole_only: bool = False


_CTF = (
    Field(column="ctf_max_resolution_angstrom", labels=("rlnCtfMaxResolution",), finite=False),
    Field(column="ctf_figure_of_merit", labels=("rlnCtfFigureOfMerit",), finite=False),
    Field(column="defocus_u_angstrom", labels=("rlnDefocusU",)),
    Field(column="defocus_v_angstrom", labels=("rlnDefocusV",)),
    Field(column="defocus_angle_degrees", labels=("rlnDefocusAngle",)),
    Field(column="ctf_b_factor_angstrom2", labels=("rlnCtfBfactor",)),
    Field(column="ctf_scale", labels=("rlnCtfScalefactor",)),
    Field(column="phase_shift_degrees", labels=("rlnPhaseShift",)),
)
_UID = Field(column="uid", labels=(UID_LABEL,), kind="whole")
_OPTICS_GROUP = Field(column="optics_group", labels=("rlnOpticsGroup",), kind="whole")
_MICROGRAPH_NAME = Field(column="micrograph_name", labels=("rlnMicrographName",), kind="text")
_POSITION = Field(column="position_pixel", labels=("rlnCoordinateX", "rlnCoordinateY"))
_FIGURE_OF_MERIT = Field(column="figure_of_merit", labels=("rlnAutopickFigureOfMerit",))
_CLASS_NUMBER = Field(column="class_number", labels=("rlnClassNumber",), kind="whole")

PARTICLE_FIELDS: tuple[Field, ...] = (
    _POSITION,
    _FIGURE_OF_MERIT,
    _CLASS_NUMBER,
    Field(column="rotation", labels=("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), kind="euler"),
    Field(
        column="prior_rotation",
        labels=("rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior"),
        kind="euler",
        whole_only=True,
    ),
    Field(column="prior_tilt_psi_degrees", labels=("rlnAngleTiltPrior", "rlnAnglePsiPrior")),
    Field(column="origin_angstrom", labels=("rlnOriginXAngst", "rlnOriginYAngst")),
    Field(column="image_name", labels=("rlnImageName",), kind="text"),
    _MICROGRAPH_NAME,
    _OPTICS_GROUP,
    *_CTF,
    Field(column="group_name", labels=("rlnGroupName",), kind="text"),
    Field(column="group_number", labels=("rlnGroupNumber",), kind="whole"),
    Field(column="norm_correction", labels=("rlnNormCorrection",)),
    Field(column="log_likelihood", labels=("rlnLogLikeliContribution",)),
    Field(column="max_probability", labels=("rlnMaxValueProbDistribution",)),
    Field(column="n_significant", labels=("rlnNrOfSignificantSamples",), kind="whole"),
    Field(column="random_subset", labels=("rlnRandomSubset",), kind="whole"),
    Field(column="tilt_index", labels=("halfmapTiltIndex",), kind="whole"),
    Field(column="symmetry_copy", labels=("halfmapSymmetryCopy",), kind="whole"),
    _UID,
)
MICROGRAPH_FIELDS: tuple[Field, ...] = (
    _MICROGRAPH_NAME,
    _OPTICS_GROUP,
    Field(column="ctf_image_name", labels=("rlnCtfImage",), kind="text"),
    *_CTF,
    Field(column="ctf_astigmatism_angstrom", labels=("rlnCtfAstigmatism",)),
    Field(column="metadata_name", labels=("rlnMicrographMetadata",), kind="text"),
)
PICK_FIELDS: tuple[Field, ...] = (
    _POSITION,
    _FIGURE_OF_MERIT,
    _CLASS_NUMBER,
    Field(column="psi_degrees", labels=("rlnAnglePsi",)),
    _UID,
)
OPTICS_FIELDS: tuple[Field, ...] = (
    Field(column="name", labels=("rlnOpticsGroupName",), kind="text"),
    _OPTICS_GROUP,
    Field(column="mtf_file_name", labels=("rlnMtfFileName",), kind="text"),
    Field(column="original_pixel_size_angstrom", labels=("rlnMicrographOriginalPixelSize",)),
    Field(column="voltage_kv", labels=("rlnVoltage",)),
    Field(column="spherical_aberration_mm", labels=("rlnSphericalAberration",)),
    Field(column="amplitude_contrast", labels=("rlnAmplitudeContrast",)),
    Field(column="micrograph_pixel_size_angstrom", labels=("rlnMicrographPixelSize",)),
    Field(column="pixel_size_angstrom", labels=("rlnImagePixelSize",)),
    Field(column="image_size_pixel", labels=("rlnImageSize",), kind="whole"),
    Field(column="image_dimensionality", labels=("rlnImageDimensionality",), kind="whole"),
    Field(column="ctf_premultiplied", labels=("rlnCtfDataAreCtfPremultiplied",), kind="flag"),
    Field(column="beam_tilt_mrad", labels=("rlnBeamTiltX", "rlnBeamTiltY")),
    Field(column="odd_zernike", labels=("rlnOddZernike",), kind="list"),
    Field(column="even_zernike", labels=("rlnEvenZernike",), kind="list"),
    Field(column="magnification_matrix", labels=("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")),
)
CLASS_FIELDS: tuple[Field, ...] = (
    Field(column="image_name", labels=("rlnReferenceImage",), kind="text"),
    _CLASS_NUMBER,
    Field(column="fraction", labels=("rlnClassDistribution",)),
    Field(column="rotation_accuracy_degrees", labels=("rlnAccuracyRotations",)),
    Field(column="offset_accuracy_angstrom", labels=("rlnAccuracyTranslationsAngst",)),
    Field(column="ssnr_resolution_angstrom", labels=("rlnEstimatedResolution",)),
    Field(column="fourier_completeness", labels=("rlnOverallFourierCompleteness",)),
    Field(column="prior_offset_angstrom", labels=("rlnClassPriorOffsetX", "rlnClassPriorOffsetY")),
    Field(column="score", labels=("rlnClassScore",), finite=False),
    Field(column="n_particles", labels=("halfmapNrParticles",), kind="whole"),
    Field(column="frc_resolution_angstrom", labels=("halfmapFrcResolution",), finite=False),
)
_KNOWN_LABELS = {
    label
    for fields in (PARTICLE_FIELDS, MICROGRAPH_FIELDS, PICK_FIELDS, OPTICS_FIELDS, CLASS_FIELDS)
    for field in fields
    for label in field.labels
}


def full_label(label: str) -> str:
    """Return a label as RELION spells it, given with or without ``_`` and ``rln``."""
    label = bare_label(label)
    with_prefix = f"rln{label[:1].upper()}{label[1:]}"
    return with_prefix if label not in _KNOWN_LABELS and with_prefix in _KNOWN_LABELS else label


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A STAR table as our columns, with the text they came from."""

    columns: dict[str, NDArray]
    remembered: dict[str, dict[str, NDArray]]
    label_order: tuple[str, ...]


def decode(table: StarTable, fields: Sequence[Field]) -> Decoded:
    """Turn a STAR table into columns.

    Known labels become our columns; vectors need all their components, Euler angles at least one (the
    others count as 0), those of priors all. A label that one field has taken is no other's. Everything else stays
    text under its label.

    Raises
    ------
    FormatError
        A value is not of its column's kind; names file and line.
    """
    labels = {full_label(label): label for label in table.labels}
    columns: dict[str, NDArray] = {}
    remembered: dict[str, dict[str, NDArray]] = {}
    taken: set[str] = set()
    for field in fields:
        present = [label for label in field.labels if label in labels and label not in taken]
        some_will_do = field.kind == "euler" and not field.whole_only
        if not present or not (some_will_do or len(present) == len(field.labels)):
            continue
        columns[field.column] = _DECODERS[field.kind](table, [labels.get(label, "") for label in field.labels])
        if field.kind != "text":
            remembered[field.column] = {label: table.raw(labels[label]) for label in present}
        taken.update(present)
    for label, original in labels.items():
        if label not in taken:
            columns[label] = table.text(original)
    return Decoded(columns=columns, remembered=remembered, label_order=tuple(labels))


def encode(table: Table, fields: Sequence[Field], *, skip: Sequence[str] = ()) -> dict[str, NDArray]:
    """Turn columns into labels and text, in the order of the file they came from.

    Remembered text is used as it is; other numbers get six decimals, or nine figures below 0.001.

    Raises
    ------
    InputError
        A number is not finite, or an unknown column is no single value for each row.
    """
    by_column = _by_column(fields)
    texts: dict[str, NDArray] = {}
    for column, values in table.columns.items():
        if column in skip:
            continue
        known = by_column.get(column)
        if known is None:
            texts[column] = _text_of_unknown(column, values)
            continue
        remembered = table.remembered.get(column, {})
        if remembered and set(remembered) <= set(known.labels):
            texts.update(remembered)
        else:
            texts.update(_ENCODERS[known.kind](known, values))
    order = {label: number for number, label in enumerate(table.label_order)}
    order |= {
        label: number
        for number, label in enumerate(
            (label for field in fields for label in field.labels if label not in order), start=len(order)
        )
    }
    return {label: texts[label] for label in sorted(texts, key=lambda label: order.get(label, len(order)))}


def number_texts(name: str, values: NDArray, *, finite: bool = True) -> list[str]:
    """Return each number with six decimals, as RELION writes it, or with nine figures below 0.001.

    Raises
    ------
    InputError
        A number is not finite where it must be.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if finite and not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise InputError(
            f"Column {name} must be finite to be written; got {numbers[row]} in row {row + 1}; "
            "set a number or remove the row."
        )
    texts = ("%.6f " * len(numbers) % tuple(numbers.tolist())).split()
    for row in np.flatnonzero((np.abs(numbers) < _SMALL) & (numbers != 0)).tolist():
        texts[row] = f"{numbers[row]:.9g}"
    return texts


def _by_column(fields: Sequence[Field]) -> dict[str, Field]:
    return {field.column: field for field in fields}


def _text_of_unknown(column: str, values: NDArray) -> NDArray:
    if values.ndim != 1:
        raise InputError(f"Column {column} must have one value for each row to be written; got shape {values.shape}.")
    if values.dtype.kind == "f":
        return np.array(number_texts(column, values), dtype=object)
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    return np.array([str(value) for value in values.tolist()], dtype=object)


def _decode_number(table: StarTable, labels: list[str]) -> NDArray:
    if len(labels) == 1:
        return table.numbers(labels[0])
    columns = np.stack([table.numbers(label) for label in labels], axis=-1)
    return columns.reshape(-1, 2, 2) if len(labels) == 4 else columns


def _decode_whole(table: StarTable, labels: list[str]) -> NDArray:
    return table.integers(labels[0])


def _decode_flag(table: StarTable, labels: list[str]) -> NDArray:
    return table.integers(labels[0]) != 0


def _decode_text(table: StarTable, labels: list[str]) -> NDArray:
    return table.text(labels[0])


def _decode_list(table: StarTable, labels: list[str]) -> NDArray:
    rows: list[list[float]] = []
    for row, text in enumerate(table.text(labels[0])):
        try:
            rows.append([float(part) for part in text.strip("[]").split(",") if part.strip()])
        except ValueError:
            raise table.error(row, expected=f"a list [a,b,…] in column _{labels[0]}", found=repr(text)) from None
    width = max(map(len, rows), default=0)
    return np.array([row + [0.0] * (width - len(row)) for row in rows]).reshape(len(rows), width)


def _decode_euler(table: StarTable, labels: list[str]) -> NDArray:
    angles = [table.numbers(label) if label else np.zeros(len(table)) for label in labels]
    return array_from_euler(*angles)


def _encode_number(field: Field, values: NDArray) -> dict[str, NDArray]:
    parts = values.reshape(len(values), len(field.labels))
    return {
        label: np.array(number_texts(field.column, parts[:, number], finite=field.finite), dtype=object)
        for number, label in enumerate(field.labels)
    }


def _encode_whole(field: Field, values: NDArray) -> dict[str, NDArray]:
    return {field.labels[0]: np.array([str(value) for value in values.tolist()], dtype=object)}


def _encode_flag(field: Field, values: NDArray) -> dict[str, NDArray]:
    return _encode_whole(field, values.astype(np.int64))


def _encode_text(field: Field, values: NDArray) -> dict[str, NDArray]:
    return {field.labels[0]: as_strings(values)}


def _encode_list(field: Field, values: NDArray) -> dict[str, NDArray]:
    rows = [f"[{','.join(number_texts(field.column, row))}]" for row in values]
    return {field.labels[0]: np.array(rows, dtype=object)}


def _encode_euler(field: Field, values: NDArray) -> dict[str, NDArray]:
    return _encode_number(field, euler_from_array(values))


_DECODERS: Mapping[str, Callable[[StarTable, list[str]], NDArray]] = {
    "number": _decode_number,
    "whole": _decode_whole,
    "flag": _decode_flag,
    "text": _decode_text,
    "list": _decode_list,
    "euler": _decode_euler,
}
_ENCODERS: Mapping[str, Callable[[Field, NDArray], dict[str, NDArray]]] = {
    "number": _encode_number,
    "whole": _encode_whole,
    "flag": _encode_flag,
    "text": _encode_text,
    "list": _encode_list,
    "euler": _encode_euler,
}


def values_of(table: Table, label: str, fields: Sequence[Field] = PARTICLE_FIELDS) -> NDArray[Any]:
    """Return the values of a column named as in RELION (with or without ``_`` and ``rln``) or as ours.

    Returns
    -------
    Shape (n,): numbers if every value is one, else text.

    Raises
    ------
    InputError
        The table has no such column, or ours has several components.
    """
    full = full_label(label)
    if label not in table.columns and full not in table.columns:
        for field in fields:
            if full in field.labels and field.column in table:
                if field.kind == "text":
                    return table[field.column]
                if field.kind == "euler":
                    values = euler_from_array(table[field.column])
                else:
                    values = table[field.column].reshape(len(table), -1)
                return values[:, field.labels.index(full)]
        labels = sorted(encode(table, fields))
        raise InputError(f"A label must be one of {', '.join(labels)}; got {label!r}; choose one of them.")
    values = table[label if label in table.columns else full]
    if values.ndim != 1 and values.size:
        raise InputError(
            f"Column {label} must hold one number for each row; got {values[0].size}; "
            "name one of them by its RELION label."
        )
    if values.dtype.kind != "O":
        return values
    try:
        return values.astype(np.float64)
    except ValueError:
        return values
