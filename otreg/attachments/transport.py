"""Optimal transport as an attachment: far reach, no scale to anneal by hand, partial data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otreg.attachments.base import ShapeAttachment, default_scale, unit_mass
from otreg.attachments.diracs import Diracs
from otreg.attachments.geometry import Shape, area_normals, split_normals
from otreg.errors import InputError
from otreg.reductions.checks import positive
from otreg.transport import SinkhornDivergence

BLUR_SHARE = 0.01
"""Default blur, in diameters of the fixed shape."""

BLUR_SPACINGS = 1.0
"""Least default blur, in spacings of the Diracs: below, transport turns into an assignment of points."""


class Transport(ShapeAttachment):
    """Debiased Sinkhorn divergence between the areas of two meshes, or the weights of two clouds.

    ``S(a, b) = OT(a, b) - OT(a, a)/2 - OT(b, b)/2`` with the cost ``|x-y|²/2``; see
    :func:`otreg.transport.sinkhorn_divergence`. A Dirac for each triangle (at its centre, with its area) or each
    point (with its weight). Pulls from any distance; two shapes that differ by a translation d cost |d|²/2.
    Differentiable twice in the moving points.

    The potentials of a call start the next one, and the self term of the fixed shape is solved at the first
    call only. So the value depends, within ``tol``, on the calls before; :meth:`reset` forgets them.

    Parameters
    ----------
    fixed : Surface, array or Tensor of shape (N, 3), or (points, triangles)
    blur : float, optional
        Smoothing length, in the unit of the files. By default 1% of the fixed shape's diameter (box diagonal),
        but at least the spacing of its Diracs.
    reach : float, optional
        Length beyond which mass is left out rather than moved: for partial data. None moves all of it.
    normal_weight : float, optional
        A length: normals that differ by 1 cost as much as this distance. A tenth of the diameter is a good
        start. None leaves normals out; else both shapes need triangles.
    weights : array or Tensor, shape (N,), optional
        Masses of the points of a cloud, 1/N each by default.
    resolution : float, optional
        Side of the cells, in the unit of the files, within which Diracs are merged into one; half the blur is
        harmless. None (the default) keeps all.
    tol : float
        Marginal error that is accepted: the gradient's error is of that order.
    max_iterations : int
        Most updates of each call.
    engine : {"auto", "fused", "keops", "blocks"}

    Notes
    -----
    Without a reach, both shapes are scaled to a total mass of 1. With one, two meshes (or two clouds) are both
    divided by the mass of the fixed one, so that a part weighs less than the whole. The weights of a partial
    cloud must say so: without them its density is too high.

    Raises
    ------
    InputError
        As :class:`Attachment`; and when ``blur``, ``reach``, ``normal_weight`` or ``tol`` is not positive.

    Warns
    -----
    ConvergenceWarning
        When a call stops above ``tol``.
    """

    def __init__(
        self,
        fixed: Any,
        blur: float | None = None,
        reach: float | None = None,
        *,
        normal_weight: float | None = None,
        weights: Any = None,
        resolution: float | None = None,
        tol: float = 1e-3,
        max_iterations: int = 1000,
        engine: str = "auto",
    ) -> None:
        self.normal_weight = None if normal_weight is None else positive(normal_weight, "normal_weight")
        super().__init__(fixed, weights, resolution)
        if blur is None:
            blur = default_scale(self._fixed, BLUR_SHARE, BLUR_SPACINGS, "blur")
        self.blur = positive(blur, "blur")
        self.reach = None if reach is None else positive(reach, "reach")
        self._mass = float(self._fixed.masses().sum())
        self._divergence = SinkhornDivergence(
            self.blur,
            reach=self.reach,
            tol=positive(tol, "tol"),
            max_iterations=max_iterations,
            engine=engine,
        )

    @property
    def scale(self) -> float:
        """The blur."""
        return self.blur

    def __repr__(self) -> str:
        reach = "" if self.reach is None else f", reach={self.reach:.6g}"
        normals = "" if self.normal_weight is None else f", normal_weight={self.normal_weight:.6g}"
        cells = "" if self.resolution is None else f", resolution={self.resolution:.6g}"
        return f"Transport({self._fixed!r}, blur={self.blur:.6g}{reach}{normals}{cells})"

    def reset(self) -> None:
        """Forget the potentials of the last call: the next one is solved from scratch."""
        super().reset()
        self._divergence.reset()

    def diracs(self, shape: Shape, name: str) -> Diracs:
        same_kind = (shape.triangles is None) == (self._fixed.triangles is None)
        alone = self.reach is None or not same_kind
        masses = unit_mass(shape, name) if alone else shape.masses() / self._mass
        positions = shape.sites()
        if self.normal_weight is not None:
            assert shape.triangles is not None
            normals = split_normals(area_normals(shape.points, shape.triangles))[0]
            positions = torch.cat([positions, self.normal_weight * normals], dim=1)
        return Diracs(positions, masses[:, None], masses)

    def _prepare(self, diracs: Diracs) -> Diracs:
        return diracs

    def _value(self, diracs: Diracs, kept: Diracs) -> Tensor:
        value: Tensor = self._divergence(diracs.positions, kept.positions, diracs.masses, kept.masses)
        return value

    def _checked(self, shape: Shape, name: str) -> Shape:
        if self.normal_weight is not None and shape.triangles is None:
            raise InputError(f"normal_weight needs triangles, but {name} has none ({shape!r}): leave it out")
        return super()._checked(shape, name)
