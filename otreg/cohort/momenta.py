"""The space of momenta: every subject is one vector of it, and its metric is that of the flows.

Momenta p on control points z that lie fixed on the template start the geodesic ``φ_p``, a
:class:`~otreg.deformations.Diffeomorphism`. The velocity field that they span has the squared norm
``|p|² = pᵀ K p``, ``K_ij = K(|z_i - z_j|)``, and half of it is the energy of the flow: the squared length of the
path from the template to the subject (Vaillant, Miller, Younes & Trouvé 2004, NeuroImage 23, section 2). All
statistics are linear ones in this space, the tangent space at the template.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from otreg.deformations import Diffeomorphism
from otreg.errors import InputError
from otreg.reductions.mixed import MixedKernel
from otreg.surface import FloatArray

METHOD = "midpoint"

_COLUMNS = 512
"""Columns of values that one pass over the pairs carries: a cohort of thousands is done in several."""


@dataclasses.dataclass(frozen=True, eq=False)
class MomentaSpace:
    """Control points, the kernel between them, and how flows are integrated.

    Parameters
    ----------
    control_points : array, shape (C, 3)
        z, on the template at time 0, in the unit of the files.
    widths : sequence of float
        Sigmas of the Gaussians, in the unit of the files, widest first.
    amplitudes : sequence of float
        Of each width. Squares of widths over the widest, by default: then velocities of every width strain space
        as much, and coarse differences between subjects are cheaper than fine ones.
    steps : int, default 5
        Steps of the integrator, of order 2, for passengers; control points take twice as many. The map is what
        these steps make of the momenta, so it is the same wherever it is used; energy is conserved to about 1 %
        over the differences that people show.
    """

    control_points: FloatArray
    widths: tuple[float, ...]
    amplitudes: tuple[float, ...] = ()
    steps: int = 5

    def __post_init__(self) -> None:
        points = np.array(self.control_points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
            raise InputError(f"control points must be finite, of shape (C, 3), got {points.shape}")
        points.setflags(write=False)
        widths = tuple(float(width) for width in np.atleast_1d(self.widths))
        object.__setattr__(self, "control_points", points)
        object.__setattr__(self, "widths", widths)
        amplitudes = tuple(self.amplitudes) or tuple((width / max(widths)) ** 2 for width in widths)
        object.__setattr__(self, "amplitudes", amplitudes)
        _ = self.kernel  # refuses widths and amplitudes that are none

    @property
    def kernel(self) -> MixedKernel:
        """K."""
        return MixedKernel("gaussian", self.widths, self.amplitudes)

    def checked(self, momenta: ArrayLike) -> FloatArray:
        """Momenta as a finite float64 array of shape (N, C, 3); one subject's (C, 3) become (1, C, 3).

        Raises
        ------
        InputError
            On another shape, or numbers that are not finite.
        """
        array = np.asarray(momenta, dtype=np.float64)
        array = array[None] if array.ndim == 2 else array
        if array.ndim != 3 or array.shape[1:] != self.control_points.shape:
            raise InputError(
                f"momenta must have shape (N, {len(self.control_points)}, 3) as the control points have, "
                f"got {np.shape(momenta)}"
            )
        if not np.isfinite(array).all():
            raise InputError("momenta must be finite")
        return array

    def velocities(self, momenta: ArrayLike, points: ArrayLike | None = None) -> FloatArray:
        """Velocities ``v(x) = Σ_j K(|x - z_j|) p_j`` at time 0.

        Parameters
        ----------
        momenta : array, shape (N, C, 3) or (C, 3)
        points : array, shape (V, 3), optional
            Default: the control points.

        Returns
        -------
        array, shape (N, V, 3)
            In the unit of the files.
        """
        array = self.checked(momenta)
        centres = torch.from_numpy(self.control_points.copy())
        where = centres if points is None else torch.from_numpy(np.array(points, dtype=np.float64))
        columns = torch.from_numpy(np.ascontiguousarray(array.transpose(1, 0, 2)).reshape(len(centres), -1))
        with torch.no_grad():
            parts = [
                self.kernel.sums(where, centres, (0, part.contiguous()))[0]
                for part in columns.split(_COLUMNS, dim=1)
            ]
        joined = torch.cat(parts, dim=1).numpy().reshape(len(where), len(array), 3)
        return np.ascontiguousarray(joined.transpose(1, 0, 2))

    def gram(self, momenta: ArrayLike, others: ArrayLike | None = None) -> FloatArray:
        """Inner products ``<p_n, q_m> = Σ_ij K(|z_i - z_j|) p_ni · q_mj``.

        Parameters
        ----------
        momenta : array, shape (N, C, 3) or (C, 3)
        others : array, shape (M, C, 3) or (C, 3), optional
            Default: the momenta themselves; the result is then symmetric to the last digit.

        Returns
        -------
        array, shape (N, M)
            In squared units of length.
        """
        first = self.checked(momenta)
        second = first if others is None else self.checked(others)
        products = first.reshape(len(first), -1) @ self.velocities(second).reshape(len(second), -1).T
        return products if others is not None else 0.5 * (products + products.T)

    def norms(self, momenta: ArrayLike) -> FloatArray:
        """``|p_n| = sqrt(<p_n, p_n>)``, (N,), in the unit of the files: lengths of the geodesics."""
        array = self.checked(momenta)
        squared = (array * self.velocities(array)).sum(axis=(1, 2))
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)), dtype=np.float64)

    def flow(self, momenta: ArrayLike, **about: object) -> Diffeomorphism:
        """The geodesic flow that momenta (C, 3) start; keywords are those of a Deformation."""
        (one,) = self.checked(momenta)
        options: dict[str, object] = {"steps": self.steps, "method": METHOD, **about}
        return Diffeomorphism(
            self.control_points.copy(),
            one,
            self.widths,
            "gaussian",
            self.amplitudes,
            **options,  # type: ignore[arg-type]
        )


def distances(gram: NDArray[np.float64]) -> FloatArray:
    """Distances ``|p_n - p_m|`` from inner products (N, N): (N, N), symmetric, zero on the diagonal."""
    squares = np.diag(gram)
    found = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2.0 * gram, 0.0))
    np.fill_diagonal(found, 0.0)
    return np.asarray(found, dtype=np.float64)
