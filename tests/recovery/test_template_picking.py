"""What template picking finds at its default settings, on real micrographs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from halfmap.io import mrc, relion
from halfmap.io.atoms import read_atoms
from halfmap.io.images import read_micrograph
from halfmap.io.relion_picks import read_coordinates
from halfmap.jobs.pick_template import PickTemplateJobParams, read_templates
from halfmap.picking import template
from halfmap.picking.agreement import Agreement, agreement
from halfmap.simulation.references import reference_of_atoms
from support.shared_data import shared_data

PIXEL_SIZE = 1.5
EDGE_PIXEL = 50


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Settings with a map of apoferritin's model as the reference, and the projections made of it."""
    model = read_atoms(shared_data("models/apoferritin_24mer_centred.pdb"))
    reference = reference_of_atoms(model, pixel_size_angstrom=4.0, b_factor_angstrom2=200, name="apoferritin")
    path = tmp_path_factory.mktemp("reference") / "map.mrc"
    mrc.write_volume(path, reference.potential)
    params = PickTemplateJobParams(
        micrographs=Path("not read"),
        references=path,
        symmetry="O",
        diameter_angstrom=140,
        psi_step_degrees=15,
        min_distance_angstrom=91,  # of `pick log` at these diameters
    )
    return params, read_templates(params)


def test_curated_particles_of_apoferritin_are_found(setting):
    params, templates = setting
    folder = shared_data("apoferritin")
    micrographs = relion.read_micrographs(folder / "micrographs_ctf.star")
    total = Agreement(n_picked=0, n_true=0, n_matched=0)
    for row, name in enumerate(micrographs["micrograph_name"]):
        known = folder / f"coords/{Path(name).stem}.star"
        if not known.exists():
            continue
        image = read_micrograph(folder / name)
        optics = template.MicrographOptics(
            **{
                column: float(micrographs[column][row])
                for column in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_degrees")
            },
            phase_shift_degrees=0,
            voltage_kv=300,
            spherical_aberration_mm=2.7,
            amplitude_contrast=0.07,
        )
        found = template.pick(
            torch.from_numpy(np.ascontiguousarray(image)),
            pixel_size_angstrom=PIXEL_SIZE,
            params=params,
            templates=templates,
            optics=optics,
        )
        limit = np.array(image.shape[::-1]) - 1 - EDGE_PIXEL
        mine, true = (
            one[((one >= EDGE_PIXEL) & (one <= limit)).all(axis=1)]
            for one in (found.position_pixel, read_coordinates(known, name).position_pixel)
        )
        total += agreement(mine, true, distance=130 / 4 / PIXEL_SIZE)
    assert total.n_true > 1500
    assert total.f1 >= 0.94
