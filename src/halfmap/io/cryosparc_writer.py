"""Particles as cryoSPARC takes them: a ``.cs`` file, and the ``.csg`` by which *Import Result Group* finds it."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.data.uids import uids_of_keys
from halfmap.errors import InconsistentDataError, InputError
from halfmap.geometry.rotations import rotation_vector_from_matrix
from halfmap.io.atomic import replacing
from halfmap.io.cryosparc import UID_COLUMN, YOrigin
from halfmap.io.mrc import split_image_name

_FLAT = 1e-9  # largest 1 − cos(tilt) of a pose in the plane
_ALIGNMENT_FIGURES = ("error", "error_min", "resid_pow", "slice_pow", "image_pow", "cross_cor", "weight")
_ABERRATIONS = (("tilt_A", 2), ("shift_A", 2), ("trefoil_A", 2), ("tetra_A", 4), ("anisomag", 4))


def write_particles(
    path: str | Path,
    particles: ParticleSet,
    *,
    micrograph_shapes: dict[str, tuple[int, int]] | None = None,
    y_origin: YOrigin = "last-row",
) -> tuple[Path, Path]:
    """Write particles as a ``.cs`` file, and a ``.csg`` file beside it.

    Parameters
    ----------
    path : of the ``.cs`` file.
    particles : with image names; box and pixel size of the images in the optics table.
    micrograph_shapes : sides (y, x) of each micrograph; without them positions are left out.
    y_origin : as for `halfmap.io.cryosparc.particles_of`.

    Returns
    -------
    The paths of the ``.cs`` and the ``.csg`` file.

    Raises
    ------
    InputError
        A micrograph's sides are not given.
    InconsistentDataError
        Image names, pixel size or box are missing.

    Notes
    -----
    Poses that lie in the plane are written as ``alignments2D``, others as ``alignments3D``. Copies by symmetry
    and tilt images share a uid here and need one each there: theirs are hashed, and ``sym_expand`` keeps whose
    copies they are. Fields that only cryoSPARC has are those of a particle before refinement. `numpy.load` and
    cryosparc-tools read the file; cryoSPARC itself was not at hand.
    """
    path = Path(path)
    fields = _fields(particles, micrograph_shapes, y_origin)
    dtype = [(name, values.dtype.str, values.shape[1:]) for name, values in fields.items()]
    array = np.zeros(len(particles), dtype=dtype)
    for name, values in fields.items():
        array[name] = values
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array, allow_pickle=False)
    group = path.with_suffix(".csg")
    groups = dict.fromkeys(name.split("/")[0] for name in fields if "/" in name)
    document = {
        "created": datetime.now(UTC).replace(tzinfo=None),
        "group": {"description": "Particles of halfmap", "name": "particles", "title": "Particles", "type": "particle"},
        "results": {
            name: {"metafile": f">{path.name}", "num_items": len(particles), "type": f"particle.{name}"}
            for name in groups
        },
        "version": "v4.0.0",
    }
    with replacing(group) as temporary:
        temporary.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path, group


def _fields(
    particles: ParticleSet, micrograph_shapes: dict[str, tuple[int, int]] | None, y_origin: YOrigin
) -> dict[str, NDArray]:
    for column in ("pixel_size_angstrom", "image_size_pixel"):
        if column not in particles.optics:
            raise InconsistentDataError(
                f"The optics table must have the column {column} to be written for cryoSPARC; got none; add it."
            )
    fields: dict[str, NDArray] = {"uid": np.zeros(0)}
    fields |= _blob(particles) | _ctf(particles)
    if micrograph_shapes is not None and "position_pixel" in particles and "micrograph_name" in particles:
        fields |= _location(particles, micrograph_shapes, y_origin)
    if "rotation" in particles or "class_number" in particles:
        fields |= _alignment(particles)
    if "figure_of_merit" in particles:
        fields["pick_stats/ncc_score"] = particles["figure_of_merit"].astype("<f4")
    uids, is_copy = _uids(particles)
    fields["uid"] = uids
    if is_copy and "symmetry_copy" in particles:
        fields["sym_expand/idx"] = particles["symmetry_copy"].astype("<u4")
        fields["sym_expand/src_uid"] = particles.uid.astype("<u8")
    return fields


def _uids(particles: ParticleSet) -> tuple[NDArray, bool]:
    """Return a uid for each row, and whether rows shared ours."""
    if UID_COLUMN in particles:
        own = np.array([int(text) for text in particles[UID_COLUMN]], dtype="<u8")
        if len(np.unique(own)) == len(own):
            return own, "symmetry_copy" in particles
    if len(np.unique(particles.uid)) == len(particles):
        return particles.uid.astype("<u8"), False
    return uids_of_keys(map(str, particles.uid.tolist())).astype("<u8"), True


def _blob(particles: ParticleSet) -> dict[str, NDArray]:
    names = [split_image_name(str(name)) for name in particles["image_name"]]
    side = particles.optics_values("image_size_pixel").astype("<u4")
    return {
        "blob/path": np.array([file.encode() for _, file in names], dtype="S"),
        "blob/idx": np.array([section for section, _ in names], dtype="<u4"),
        "blob/shape": np.stack([side, side], axis=-1),
        "blob/psize_A": particles.optics_values("pixel_size_angstrom").astype("<f4"),
        "blob/sign": np.ones(len(particles), dtype="<f4"),  # particles are bright here
    }


def _ctf(particles: ParticleSet) -> dict[str, NDArray]:
    n = len(particles)
    optics = particles.optics
    fields: dict[str, NDArray] = {
        "ctf/type": np.full(n, b"imported", dtype="S"),
        "ctf/exp_group_id": (particles["optics_group"] - 1).astype("<u4"),
    }
    for column, name in (
        ("voltage_kv", "ctf/accel_kv"),
        ("spherical_aberration_mm", "ctf/cs_mm"),
        ("amplitude_contrast", "ctf/amp_contrast"),
    ):
        if column in optics:
            fields[name] = particles.optics_values(column).astype("<f4")
    if "defocus_u_angstrom" in particles:
        for column, name, factor, missing in (
            ("defocus_u_angstrom", "ctf/df1_A", 1.0, 0.0),
            ("defocus_v_angstrom", "ctf/df2_A", 1.0, 0.0),
            ("defocus_angle_degrees", "ctf/df_angle_rad", np.pi / 180, 0.0),
            ("phase_shift_degrees", "ctf/phase_shift_rad", np.pi / 180, 0.0),
            ("ctf_scale", "ctf/scale", 1.0, 1.0),
            ("ctf_b_factor_angstrom2", "ctf/bfactor", 1.0, 0.0),
        ):
            fields[name] = (particles.get(column, missing) * factor).astype("<f4")
        fields["ctf/scale_const"] = np.ones(n, dtype="<f4")
        for column, name in (
            ("ctf_max_resolution_angstrom", "ctf/ctf_fit_to_A"),
            ("ctf_figure_of_merit", "ctf/cross_corr_ctffind4"),
        ):
            if column in particles:
                fields[name] = particles[column].astype("<f4")
        for name, width in _ABERRATIONS:
            fields[f"ctf/{name}"] = np.zeros((n, width), dtype="<f4")
    return fields


def _location(
    particles: ParticleSet, micrograph_shapes: dict[str, tuple[int, int]], y_origin: YOrigin
) -> dict[str, NDArray]:
    names = [str(name) for name in particles["micrograph_name"]]
    unknown = next((name for name in names if name not in micrograph_shapes), None)
    if unknown is not None:
        raise InputError(f"The sides of every micrograph must be known; got none for {unknown}; give them.")
    shape = np.array([micrograph_shapes[name] for name in names], dtype="<u4").reshape(-1, 2)
    x = particles["position_pixel"][:, 0] / shape[:, 1]
    y = particles["position_pixel"][:, 1] / shape[:, 0]
    of_name = dict(zip(dict.fromkeys(names), uids_of_keys(dict.fromkeys(names)).tolist(), strict=True))
    fields: dict[str, NDArray] = {
        "location/micrograph_uid": np.array([of_name[name] for name in names], dtype="<u8"),
        "location/exp_group_id": (particles["optics_group"] - 1).astype("<u4"),
        "location/micrograph_path": np.array([name.encode() for name in names], dtype="S"),
        "location/micrograph_shape": shape,
        "location/center_x_frac": x.astype("<f4"),
        "location/center_y_frac": (1.0 - y if y_origin == "last-row" else y).astype("<f4"),
    }
    if "micrograph_pixel_size_angstrom" in particles.optics:
        size = particles.optics_values("micrograph_pixel_size_angstrom")
        fields["location/micrograph_psize_A"] = size.astype("<f4")
    return fields


def _alignment(particles: ParticleSet) -> dict[str, NDArray]:
    n = len(particles)
    pixel_size = particles.optics_values("pixel_size_angstrom")
    rotation = particles.get("rotation", np.eye(3))
    is_flat = not n or float(np.max(1.0 - rotation[:, 2, 2])) < _FLAT
    prefix = "alignments2D" if is_flat else "alignments3D"
    if is_flat:
        pose = np.arctan2(rotation[:, 0, 1], rotation[:, 0, 0])
    else:
        pose = -rotation_vector_from_matrix(torch.from_numpy(np.array(rotation))).numpy()
    fields: dict[str, NDArray] = {
        "split": np.maximum(particles.get("random_subset", 1) - 1, 0).astype("<u4"),
        "shift": (particles.get("origin_angstrom", 0.0) / pixel_size[:, None]).astype("<f4"),
        "pose": pose.astype("<f4"),
        "psize_A": pixel_size.astype("<f4"),
        **{name: np.zeros(n, dtype="<f4") for name in _ALIGNMENT_FIGURES},
        "alpha": np.ones(n, dtype="<f4"),
        "pose_ess": np.zeros(n, dtype="<f4"),
        "shift_ess": np.zeros(n, dtype="<f4"),
        "class_posterior": particles.get("max_probability", 1.0).astype("<f4"),
        "class": np.maximum(particles.get("class_number", 1) - 1, 0).astype("<u4"),
        "class_ess": np.ones(n, dtype="<f4"),
    }
    return {f"{prefix}/{name}": values for name, values in fields.items()}
