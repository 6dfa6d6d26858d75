"""cryoSPARC's metadata files (``.cs``): particles, picks and micrographs, read into our names and units.

A ``.cs`` file is a numpy structured array with a ``uid`` for each row and fields in groups: ``blob`` (the
image), ``ctf``, ``location`` (in the micrograph), ``alignments2D``, ``alignments3D``. What a job did not touch
lies in a *passthrough* file beside it and is joined by uid. `halfmap.io.cryosparc_writer` is the way back.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.micrographs import MicrographSet
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.data.picks import Picks
from halfmap.errors import FormatError, InconsistentDataError
from halfmap.geometry.rotations import matrix_from_euler, matrix_from_rotation_vector

NUMPY_MAGIC = b"\x93NUMPY"
STREAM_MAGIC = b"\x95CSDAT"
UID_COLUMN = "cryosparcUid"
"""Column that keeps cryoSPARC's own uid, 64 bits without sign, as text."""

UNCONVERTED = ("ctf/tilt_A", "ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")
"""Fields of aberrations, whose signs and axes cryoSPARC does not publish."""

YOrigin: TypeAlias = Literal["last-row", "first-row"]
"""Row of the stored micrograph from which ``location/center_y_frac`` counts."""

_POSITIVE = np.uint64(2**63 - 1)
_GROUP_OF_CLASS = re.compile(r"^alignments?(?:3D)?_(?:class|multi)\w*$")


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The fields of one ``.cs`` file, or of several that were joined by uid.

    Parameters
    ----------
    path : of the first file, for messages.
    fields : name → values, shape (n, ...); ``uid`` is always there.
    """

    path: Path
    fields: dict[str, NDArray]

    def __len__(self) -> int:
        return len(self.fields["uid"])

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __getitem__(self, name: str) -> NDArray:
        try:
            return self.fields[name]
        except KeyError:
            raise FormatError(
                self.path,
                expected=f"the field {name}",
                found=", ".join(sorted(self.fields)),
                remedy="give the passthrough file of the same job too, which holds what the job did not change",
            ) from None

    def first_of(self, *names: str) -> NDArray | None:
        """Return the first of these fields that is there."""
        return next((self.fields[name] for name in names if name in self.fields), None)

    def text(self, name: str) -> NDArray[np.object_]:
        """Return a field of text; the ``>`` before paths of exported groups is dropped."""
        values = self[name]
        decoded = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)
        return np.array([text.removeprefix(">") for text in decoded.tolist()], dtype=object)

    @property
    def holds(self) -> Literal["particles", "picks", "micrographs"] | None:
        """What the rows are; None if they are none of these (volumes, masks, templates)."""
        if "blob/path" in self and "blob/idx" in self:
            return "particles"
        if "location/center_x_frac" in self:
            return "picks"
        return "micrographs" if "micrograph_blob/path" in self else None


def read(path: str | Path, *passthroughs: str | Path) -> Dataset:
    """Read a ``.cs`` file and join others to it by uid.

    Parameters
    ----------
    path : its rows are those of the result, and its fields win.
    passthroughs : files of the same job; they may hold more rows.

    Raises
    ------
    FormatError
        A file is no numpy array of named fields with a ``uid``.
    InconsistentDataError
        A row of the first file is not in another, or stands in it twice.
    """
    first = _read_one(Path(path))
    fields = dict(first.fields)
    for other_path in passthroughs:
        other = _read_one(Path(other_path))
        order = np.argsort(other["uid"], kind="stable")
        ordered = other["uid"][order]
        repeated = len(ordered) - len(np.unique(ordered))
        if repeated:
            raise InconsistentDataError(
                f"A passthrough file must hold each uid once; got {repeated} repetitions in {other.path}; choose the "
                "passthrough file of the same job."
            )
        place = np.searchsorted(ordered, first["uid"]).clip(max=max(len(ordered) - 1, 0))
        found = ordered[place] == first["uid"] if len(ordered) else np.zeros(len(first), dtype=bool)
        if not found.all():
            raise InconsistentDataError(
                f"Every uid of {first.path} must be in {other.path}; got {np.sum(~found)} of {len(first)} that are "
                "not; give the passthrough file of the same job, or import the files one by one."
            )
        for name, values in other.fields.items():
            fields.setdefault(name, values[order[place]])
    return Dataset(path=first.path, fields=fields)


def _read_one(path: Path) -> Dataset:
    try:
        with open(path, "rb") as stream:
            magic = stream.read(len(NUMPY_MAGIC))
        if magic == STREAM_MAGIC:
            raise FormatError(
                path,
                expected="a .cs file in numpy's format",
                found="cryoSPARC's compressed stream",
                remedy="load it with cryosparc-tools and save it with format=cryosparc.dataset.NUMPY_FORMAT",
            )
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise FormatError(path, expected="a readable .cs file", found=f"'{error.strerror or error}'") from error
    except (ValueError, EOFError) as error:
        raise FormatError(
            path,
            expected="a numpy array of named fields",
            found=f"'{error}'",
            remedy="check that the file is complete; export it from cryoSPARC again",
        ) from error
    names = array.dtype.names
    if not names or array.ndim != 1 or "uid" not in names:
        raise FormatError(
            path,
            expected="a numpy array of one dimension with named fields, uid among them",
            found=f"shape {array.shape}, fields {', '.join(names) if names else 'none'}",
            remedy="choose a .cs file of particles or micrographs",
        )
    return Dataset(path=path, fields={name: np.ascontiguousarray(array[name]) for name in names})


def unconverted_aberrations(dataset: Dataset) -> tuple[str, ...]:
    """Return the fields of aberrations that are not zero everywhere and that are not converted."""
    return tuple(name for name in UNCONVERTED if name in dataset and np.any(dataset[name] != 0))


def uids_of(dataset: Dataset) -> NDArray[np.int64]:
    """Return our uids: cryoSPARC's, of the source for copies by symmetry, without their highest bit."""
    source = dataset["uid"]
    if "sym_expand/src_uid" in dataset:
        # Rows that were never expanded have no source.
        source = np.where(dataset["sym_expand/src_uid"] == 0, source, dataset["sym_expand/src_uid"])
    return np.maximum(source.astype(np.uint64) & _POSITIVE, 1).astype(np.int64)


def particles_of(dataset: Dataset, *, y_origin: YOrigin = "last-row") -> ParticleSet:
    """Return particles with their images, CTF, positions and poses.

    Parameters
    ----------
    dataset : with ``blob``; everything else is taken where it is there.
    y_origin : which row of the micrograph, as stored, ``location/center_y_frac`` counts from.

    Returns
    -------
    ParticleSet
        Poses of ``alignments3D``; else of the most probable class of a heterogeneous refinement; else of
        ``alignments2D``. cryoSPARC's own uid is kept as the column ``cryosparcUid``.

    Raises
    ------
    FormatError
        A field that others need is missing.

    Notes
    -----
    The pose is a rotation vector w with A = exp(−[w]×); in 2D an angle equal to RELION's psi. The shift is in
    pixels of the alignment and has RELION's sign. cryoSPARC says so nowhere; that is what csparc2star (pyem)
    and cryoDRGN's ``parse_pose_csparc`` do, whose results are used daily with RELION.
    """
    columns: dict[str, NDArray] = {"uid": uids_of(dataset)}
    columns[UID_COLUMN] = np.array([str(uid) for uid in dataset["uid"].tolist()], dtype=object)
    sections = dataset["blob/idx"].astype(np.int64) + 1
    files = dataset.text("blob/path")
    columns["image_name"] = np.array(
        [f"{section:06d}@{file}" for section, file in zip(sections.tolist(), files.tolist(), strict=True)],
        dtype=object,
    )
    columns |= _places(dataset, y_origin)
    columns |= _ctf(dataset)
    columns |= _alignment(dataset)
    if "pick_stats/ncc_score" in dataset:
        columns["figure_of_merit"] = dataset["pick_stats/ncc_score"].astype(np.float64)
    if "sym_expand/idx" in dataset:
        columns["symmetry_copy"] = dataset["sym_expand/idx"].astype(np.int64)
    optics, columns["optics_group"] = _optics(dataset)
    return ParticleSet(columns=columns, optics=optics)


def picks_of(dataset: Dataset, *, y_origin: YOrigin = "last-row") -> Picks:
    """Return positions in micrographs.

    Parameters
    ----------
    dataset : with ``location``.
    y_origin : as for `particles_of`.

    Raises
    ------
    FormatError
        The micrographs' paths or sides are missing.
    """
    columns = _places(dataset, y_origin)
    columns["uid"] = uids_of(dataset)
    columns[UID_COLUMN] = np.array([str(uid) for uid in dataset["uid"].tolist()], dtype=object)
    if "pick_stats/ncc_score" in dataset:
        columns["figure_of_merit"] = dataset["pick_stats/ncc_score"].astype(np.float64)
    return Picks(columns=columns, source=dataset.path.name)


def micrographs_of(dataset: Dataset) -> MicrographSet:
    """Return micrographs with their CTF.

    Raises
    ------
    FormatError
        ``micrograph_blob/path`` is missing.
    """
    columns: dict[str, NDArray] = {"micrograph_name": dataset.text("micrograph_blob/path")}
    columns |= _ctf(dataset)
    columns.pop("ctf_scale", None)
    optics, columns["optics_group"] = _optics(dataset)
    return MicrographSet(columns=columns, optics=optics)


def _places(dataset: Dataset, y_origin: YOrigin) -> dict[str, NDArray]:
    name = next((n for n in ("location/micrograph_path", "micrograph_blob/path") if n in dataset), None)
    if name is None:
        if dataset.holds == "picks":
            dataset["location/micrograph_path"]  # raises, naming file and field
        return {}
    columns: dict[str, NDArray] = {"micrograph_name": dataset.text(name)}
    if "location/center_x_frac" in dataset:
        shape = dataset.first_of("location/micrograph_shape", "micrograph_blob/shape")
        if shape is None:
            shape = dataset["location/micrograph_shape"]  # raises
        x, y = (dataset[f"location/center_{axis}_frac"].astype(np.float64) for axis in "xy")
        y = 1.0 - y if y_origin == "last-row" else y
        columns["position_pixel"] = np.stack([x * shape[:, 1], y * shape[:, 0]], axis=-1)
    return columns


def _ctf(dataset: Dataset) -> dict[str, NDArray]:
    columns: dict[str, NDArray] = {}
    for column, names, factor in (
        ("defocus_u_angstrom", ("ctf/df1_A",), 1.0),
        ("defocus_v_angstrom", ("ctf/df2_A",), 1.0),
        ("defocus_angle_degrees", ("ctf/df_angle_rad",), 180.0 / np.pi),
        ("phase_shift_degrees", ("ctf/phase_shift_rad",), 180.0 / np.pi),
        ("ctf_b_factor_angstrom2", ("ctf/bfactor",), 1.0),
        ("ctf_scale", ("ctf/scale",), 1.0),
        ("ctf_max_resolution_angstrom", ("ctf/ctf_fit_to_A",), 1.0),
        ("ctf_figure_of_merit", ("ctf/cross_corr_ctffind4", "ctf/cross_corr"), 1.0),
    ):
        values = dataset.first_of(*names)
        if values is not None:
            columns[column] = values.astype(np.float64) * factor
    return columns


def _alignment(dataset: Dataset) -> dict[str, NDArray]:
    group = _group_of_poses(dataset)
    if group is None:
        return {}
    pose, shift = group["pose"].astype(np.float64), group["shift"].astype(np.float64)
    if pose.ndim == 1:
        rotation = matrix_from_euler(0.0, 0.0, np.rad2deg(pose))
    else:
        rotation = matrix_from_rotation_vector(-torch.from_numpy(pose))
    pixel_size = group.get("psize_A", dataset.fields.get("blob/psize_A"))
    if pixel_size is None:
        pixel_size = dataset["blob/psize_A"]  # raises
    columns: dict[str, NDArray] = {
        "rotation": rotation.numpy(),
        "origin_angstrom": shift * pixel_size.astype(np.float64)[:, None],
    }
    if "class" in group:
        columns["class_number"] = group["class"].astype(np.int64) + 1
    if "class_posterior" in group:
        columns["max_probability"] = group["class_posterior"].astype(np.float64)
    # All 0 is what cryoSPARC writes before any split.
    if "split" in group and np.any(group["split"] != 0):
        columns["random_subset"] = group["split"].astype(np.int64) + 1
    return columns


def _group_of_poses(dataset: Dataset) -> dict[str, NDArray] | None:
    """Return the fields of the alignment that counts, without the group's name."""
    if "alignments3D/pose" in dataset:
        return _fields_of(dataset, "alignments3D")
    prefixes = [name.removesuffix("/pose") for name in dataset.fields if name.endswith("/pose")]
    classes = [prefix for prefix in prefixes if _GROUP_OF_CLASS.match(prefix)]
    classes = [prefix for prefix in classes if f"{prefix}/class_posterior" in dataset]
    if classes:
        groups = [_fields_of(dataset, prefix) for prefix in classes]
        best = np.argmax([group["class_posterior"] for group in groups], axis=0)
        rows = np.arange(len(dataset))
        shared = set(groups[0]).intersection(*groups)
        return {name: np.stack([group[name] for group in groups])[best, rows] for name in shared}
    return _fields_of(dataset, "alignments2D") if "alignments2D/pose" in dataset else None


def _fields_of(dataset: Dataset, prefix: str) -> dict[str, NDArray]:
    return {
        name.removeprefix(f"{prefix}/"): values
        for name, values in dataset.fields.items()
        if name.startswith(f"{prefix}/")
    }


def _optics(dataset: Dataset) -> tuple[OpticsGroups, NDArray[np.int64]]:
    """Make optics groups of rows that share microscope, pixel size and box; numbers follow the exposure group."""
    values: dict[str, NDArray] = {}
    for column, names in (
        ("voltage_kv", ("ctf/accel_kv", "mscope_params/accel_kv")),
        ("spherical_aberration_mm", ("ctf/cs_mm", "mscope_params/cs_mm")),
        ("amplitude_contrast", ("ctf/amp_contrast",)),
        ("pixel_size_angstrom", ("blob/psize_A",)),
        ("micrograph_pixel_size_angstrom", ("location/micrograph_psize_A", "micrograph_blob/psize_A")),
        ("original_pixel_size_angstrom", ("movie_blob/psize_A",)),
    ):
        found = dataset.first_of(*names)
        if found is not None:
            values[column] = found.astype(np.float64)
    if "blob/shape" in dataset:
        values["image_size_pixel"] = dataset["blob/shape"][:, -1].astype(np.float64)
    exposure = dataset.first_of("ctf/exp_group_id", "location/exp_group_id", "mscope_params/exp_group_id")
    exposure = np.zeros(len(dataset)) if exposure is None else exposure.astype(np.float64)
    keys, first, inverse = np.unique(
        np.stack([exposure, *values.values()], axis=-1), axis=0, return_index=True, return_inverse=True
    )
    numbers = keys[:, 0].astype(np.int64) + 1
    if len(np.unique(numbers)) != len(numbers):
        numbers = np.arange(1, len(keys) + 1)
    columns: dict[str, NDArray] = {"optics_group": numbers}
    for column, every in values.items():
        # Single precision is written out to its own digits: 2.95, not 2.950000047….
        columns[column] = np.array([float(str(np.float32(value))) for value in every[first]])
    if "image_size_pixel" in columns:
        columns["image_size_pixel"] = columns["image_size_pixel"].astype(np.int64)
        columns["image_dimensionality"] = np.full(len(keys), 2, dtype=np.int64)
    return OpticsGroups(columns=columns), numbers[inverse.reshape(-1)]
