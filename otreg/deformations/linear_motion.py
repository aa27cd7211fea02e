"""The way from the identity to an affine map: a steady motion where there is one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import expm, polar
from scipy.spatial.transform import Rotation

from otreg.surface import FloatArray

Motion = Callable[[float], tuple[FloatArray, FloatArray]]
"""Time from 0 to 1 -> matrix (3, 3) and translation (3,)."""

_AGREES = 1e-9  # relative error of exp(log A) up to which the logarithm is taken
_CONFORMAL = 1e-6  # as for the kinds of Affine: files may carry 7 digits


def steady_motion(matrix: FloatArray, translation: FloatArray) -> tuple[Motion, str]:
    """Affine maps at all times from 0 (the identity) to 1 (``y = A x + t``).

    Parameters
    ----------
    matrix : array (3, 3)
        A.
    translation : array (3,)
        t, in the unit of the files.

    Returns
    -------
    motion : callable, time -> (matrix (3, 3), translation (3,))
        Where A has a real logarithm, the one-parameter group ``exp(time · log M)`` of the 4x4 matrix M of the map:
        the same small map over and over, of a rigid map a screw of constant speed. Where it has none but does
        not mirror, the powers of the rotation and of the stretch of its polar decomposition ``A = R S``, about
        the point that stays in place. Where it mirrors or flattens, which no motion of a body does, straight lines.
    words : str
        Which of these it is.
    """
    if float(np.linalg.det(matrix)) <= 0.0:
        return _straight(matrix, translation), "along straight lines, since it mirrors"
    logarithm = real_logarithm(matrix)
    if logarithm is None:
        return _rotation_and_stretch(matrix, translation), "as a steady rotation and stretch"
    generator = np.zeros((4, 4))
    generator[:3, :3] = logarithm
    generator[:3, 3] = np.linalg.solve(_mean_power(logarithm), translation)

    def motion(time: float) -> tuple[FloatArray, FloatArray]:
        power = expm(time * generator)
        return power[:3, :3], power[:3, 3]

    return motion, "as a steady motion"


def real_logarithm(matrix: FloatArray) -> FloatArray | None:
    """A real logarithm of a 3x3 matrix of positive determinant, or None where none was found.

    The principal one (square roots until the matrix is near the identity, then the series of
    ``log A = 2 artanh((A - I)(A + I)⁻¹)``; Higham, Functions of Matrices, 2008, sections 6.3 and 11.5), or where
    eigenvalues on the negative axis forbid that, the one of a scaled rotation by half a turn.
    """
    for found in (_principal_logarithm(matrix), _conformal_logarithm(matrix)):
        if found is not None:
            error = float(np.abs(expm(found) - matrix).max())
            if error <= _CONFORMAL * 10 * float(np.abs(matrix).max()):
                return found
    return None


def _principal_logarithm(matrix: FloatArray) -> FloatArray | None:
    values = np.linalg.eigvals(matrix)
    if bool(np.any((values.real <= 0) & (np.abs(values.imag) <= _AGREES * np.abs(values)))):
        return None
    root, halvings, identity = matrix, 0, np.eye(3)
    while float(np.linalg.norm(root - identity, 2)) > 0.25 and halvings < 60:
        root, halvings = _square_root(root), halvings + 1
    ratio = np.linalg.solve((root + identity).T, (root - identity).T).T
    square, power, total = ratio @ ratio, ratio, ratio.copy()
    for term in range(3, 33, 2):  # |ratio| < 1/7: below rounding long before the last
        power = power @ square
        total += power / term
    logarithm = np.asarray(2.0 ** (halvings + 1) * total, dtype=np.float64)
    good = np.abs(expm(logarithm) - matrix).max() <= _AGREES * np.abs(matrix).max()
    return logarithm if good else None


def _square_root(matrix: FloatArray) -> FloatArray:
    """Principal square root by Denman and Beavers' iteration."""
    root, inverse = matrix, np.eye(3)
    for _ in range(100):
        before = root
        root, inverse = (
            0.5 * (root + np.linalg.inv(inverse)),
            0.5 * (inverse + np.linalg.inv(root)),
        )
        if float(np.abs(root - before).max()) <= 1e-15 * float(np.abs(root).max()):
            break
    return root


def _conformal_logarithm(matrix: FloatArray) -> FloatArray | None:
    """Of a scaled rotation: the rotation vector's cross product, and the scale's logarithm."""
    scale = float(np.linalg.det(matrix)) ** (1.0 / 3.0)
    turn = matrix / scale
    if float(np.abs(turn.T @ turn - np.eye(3)).max()) > 2 * _CONFORMAL:
        return None
    x, y, z = Rotation.from_matrix(turn).as_rotvec()
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    result: FloatArray = cross + np.log(scale) * np.eye(3)
    return result


def _mean_power(logarithm: FloatArray) -> FloatArray:
    """``∫ exp(s L) ds`` over s from 0 to 1: what turns the translation's rate into the translation."""
    block = np.zeros((6, 6))
    block[:3, :3], block[:3, 3:] = logarithm, np.eye(3)
    result: FloatArray = expm(block)[:3, 3:]
    return result


def _rotation_and_stretch(matrix: FloatArray, translation: FloatArray) -> Motion:
    rotation, stretch = polar(matrix)
    vector = Rotation.from_matrix(rotation).as_rotvec()
    values, axes = np.linalg.eigh(stretch)
    # The point that the map leaves in place, or moves least: a pole far away would swing the shape about.
    pole = np.linalg.lstsq(matrix - np.eye(3), -translation, rcond=1e-9)[0]
    shift = matrix @ pole + translation - pole

    def motion(time: float) -> tuple[FloatArray, FloatArray]:
        power = Rotation.from_rotvec(time * vector).as_matrix() @ (axes * values**time) @ axes.T
        return power, pole - power @ pole + time * shift

    return motion


def _straight(matrix: FloatArray, translation: FloatArray) -> Motion:
    def motion(time: float) -> tuple[FloatArray, FloatArray]:
        return np.eye(3) + time * (matrix - np.eye(3)), time * translation

    return motion
