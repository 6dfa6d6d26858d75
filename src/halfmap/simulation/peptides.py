"""Ideal secondary structure: straight α-helices and flat β-strands, atom by atom."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BACKBONE_NAMES = ("N", "CA", "C", "O", "CB")
BACKBONE_ELEMENTS = ("N", "C", "C", "O", "C")

# Engh and Huber 1991, mean values: Å and degrees
_N_CA, _CA_C, _C_N, _C_O, _CA_CB = 1.458, 1.525, 1.329, 1.231, 1.530
_N_CA_C, _CA_C_N, _C_N_CA, _CA_C_O = 111.0, 117.2, 121.7, 120.1
_C_C_C = 112.0

HELIX_TORSIONS_DEGREES = (-57.8, -47.0)
STRAND_TORSIONS_DEGREES = (-119.0, 116.26)
"""φ and ψ: the strand's ψ makes its screw turn by 180° a residue, so that it neither twists nor coils."""

HELIX_RISE_ANGSTROM = 1.55
STRAND_RISE_ANGSTROM = 3.3
STRAND_SPACING_ANGSTROM = 4.8


def place(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    c: NDArray[np.float64],
    length: float,
    angle_degrees: float,
    torsion_degrees: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """Return the atom bound to ``c`` at this bond length, angle b–c–d and torsion a–b–c–d.

    Parameters
    ----------
    a, b, c : shape (..., 3)
    length : Å.
    torsion_degrees : broadcast against the leading axes.
    """
    bc = _unit(c - b)
    normal = _unit(np.cross(b - a, bc))
    angle = math.radians(angle_degrees)
    torsion = np.radians(np.asarray(torsion_degrees, dtype=np.float64))[..., None]
    inward = np.cross(normal, bc)
    d: NDArray[np.float64] = c + length * (
        -math.cos(angle) * bc + math.sin(angle) * (np.cos(torsion) * inward + np.sin(torsion) * normal)
    )
    return d


def chain(n_residues: int, phi_degrees: float, psi_degrees: float) -> NDArray[np.float64]:
    """Build a chain of equal residues with trans peptide bonds.

    Returns
    -------
    float64, shape (n_residues, 5, 3)
        N, CA, C, O and CB of each residue in Å, in the frame of the first.
    """
    n = np.zeros(3)
    ca = np.array([_N_CA, 0.0, 0.0])
    bend = math.radians(180.0 - _N_CA_C)
    c = ca + _CA_C * np.array([math.cos(bend), math.sin(bend), 0.0])
    atoms = np.empty((n_residues, 5, 3))
    for i in range(n_residues):
        next_n = place(n, ca, c, _C_N, _CA_C_N, psi_degrees)
        atoms[i] = n, ca, c, place(n, ca, c, _C_O, _CA_C_O, psi_degrees + 180.0), _cb(n, ca, c)
        next_ca = place(ca, c, next_n, _N_CA, _C_N_CA, 180.0)
        next_c = place(c, next_n, next_ca, _CA_C, _N_CA_C, phi_degrees)
        n, ca, c = next_n, next_ca, next_c
    return atoms


@lru_cache(maxsize=2)
def helix(n_residues: int) -> NDArray[np.float64]:
    """Return an α-helix along +z, centred on the origin, shape (n_residues, 5, 3)."""
    return _along_z(chain(n_residues, *HELIX_TORSIONS_DEGREES))


@lru_cache(maxsize=2)
def strand(n_residues: int) -> NDArray[np.float64]:
    """Return a β-strand along +z whose side chains point along ±x and whose carbonyls along ±y.

    Returns
    -------
    float64, shape (n_residues, 5, 3), centred on the origin.
    """
    atoms = _along_z(chain(n_residues, *STRAND_TORSIONS_DEGREES))
    side = (atoms[:, 4] - atoms[:, 1]) * np.where(np.arange(n_residues) % 2, -1.0, 1.0)[:, None]
    angle = math.atan2(side[:, 1].mean(), side[:, 0].mean())
    turned: NDArray[np.float64] = atoms @ about_z(-angle).T
    return turned


@lru_cache(maxsize=1)
def antiparallel_offset_angstrom() -> float:
    """Return the shift along z that keeps neighbouring antiparallel strands furthest apart."""
    here = strand(12)
    neighbour = turned_over(here) + np.array([0.0, STRAND_SPACING_ANGSTROM, 0.0])
    offsets = np.arange(0.0, 2 * STRAND_RISE_ANGSTROM, 0.1)
    nearest = []
    for offset in offsets:
        gaps = (neighbour + np.array([0.0, 0.0, offset])).reshape(-1, 1, 3) - here.reshape(1, -1, 3)
        nearest.append(np.linalg.norm(gaps, axis=-1).min())
    return float(offsets[int(np.argmax(nearest))])


def turned_over(atoms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return atoms after half a turn about x, which reverses a strand and keeps the sides of its sheet."""
    return atoms * [1.0, -1.0, -1.0]


def next_side_chain_atom(stem: NDArray[np.float64], torsion_degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Extend side chains by one aliphatic atom.

    Parameters
    ----------
    stem : shape (n, 3, 3)
        The last three atoms of each side chain, from N, CA and CB on.
    torsion_degrees : shape (n,)

    Returns
    -------
    float64, shape (n, 3)
    """
    return place(stem[:, 0], stem[:, 1], stem[:, 2], _CA_CB, _C_C_C, torsion_degrees)


def about_z(angle_rad: float) -> NDArray[np.float64]:
    """Return the rotation about z by an angle from x towards y."""
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _cb(n: NDArray[np.float64], ca: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return CB at tetrahedral angles to N and C, on the side of an L residue."""
    b, a = ca - n, c - ca
    bisector = _unit(_unit(b) - _unit(a))
    normal = _unit(np.cross(b, a))
    half = math.radians(109.5 / 2)
    return ca + _CA_CB * (math.cos(half) * bisector - math.sin(half) * normal)


def _along_z(atoms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn the screw axis of a chain of equal residues onto z through the origin, N-terminus down."""
    first, second = atoms[:-1].reshape(-1, 3), atoms[1:].reshape(-1, 3)
    rotation, shift = _motion(first, second)
    values, vectors = np.linalg.eig(rotation)
    axis = np.real(vectors[:, int(np.argmin(np.abs(values - 1.0)))])
    axis = _unit(axis * np.sign(axis @ shift))
    # a point p on the axis stays on it: (1 - R) p = shift without its part along the axis
    point = np.linalg.pinv(np.eye(3) - rotation) @ (shift - axis * (axis @ shift))
    x = _unit(np.cross(axis, [0.3, 0.5, -0.8]))
    frame = np.stack([x, np.cross(axis, x), axis])
    turned: NDArray[np.float64] = (atoms - point) @ frame.T
    turned[..., 2] -= turned[:, 1, 2].mean()
    return turned


def _motion(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centre_before, centre_after = before.mean(axis=0), after.mean(axis=0)
    u, _, vt = np.linalg.svd((before - centre_before).T @ (after - centre_after))
    sign = np.sign(np.linalg.det(vt.T @ u.T))
    rotation = vt.T @ np.diag([1.0, 1.0, sign]) @ u.T
    return rotation, centre_after - rotation @ centre_before


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / np.linalg.norm(vector, axis=-1, keepdims=True)
    return unit
