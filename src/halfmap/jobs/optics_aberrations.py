"""Aberrations of RELION's optics groups as template matching takes them."""

import numpy as np

from halfmap.data.optics_groups import OpticsGroups
from halfmap.io.leopard_aberrations import StoredAberrations
from halfmap.optics.aberrations import odd_zernike_with_tilt


def aberrations_of_group(optics: OpticsGroups, number: int) -> StoredAberrations:
    """Return the aberrations of an optics group, a beam tilt among the odd ones."""

    def listed(name: str) -> tuple[float, ...]:
        return tuple(np.ravel(optics.values(name, [number])[0]).tolist()) if name in optics else ()

    odd, tilt, matrix = listed("odd_zernike"), listed("beam_tilt_mrad"), listed("magnification_matrix")
    # where a table has both, the tilt stands for the axial coma, also one of 0
    if any(tilt) or (tilt and any(odd)):
        odd = odd_zernike_with_tilt(
            odd,
            beam_tilt_mrad=tilt,
            voltage_kv=float(optics.values("voltage_kv", [number])[0]),
            spherical_aberration_mm=float(optics.values("spherical_aberration_mm", [number])[0]),
        )
    if not matrix:
        return StoredAberrations(even_zernike=listed("even_zernike"), odd_zernike=odd)
    a, b, c, d = matrix
    return StoredAberrations(even_zernike=listed("even_zernike"), odd_zernike=odd, magnification=(a, b, c, d))
