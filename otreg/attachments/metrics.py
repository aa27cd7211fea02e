"""Kernel norms between shapes: currents, varifolds, and the kernel mean discrepancy of point clouds.

A shape is a cloud of Diracs, one for each triangle (at its centre x, with area a and unit normal u) or one for
each point (with a mass a). Two of them have the inner product

    <μ, ν> = Σ_ij k(x_i, y_j) γ(<u_i, u'_j>) a_i a'_j,        k(x, y) = exp(-|x-y|²/(2 width²))

and an attachment is the squared distance ``|μ - ν|²``, scaled to squared length units:

    value = ½ width² (<μ, μ> - 2 <μ, ν> + <ν, ν>) / Σ_ij k(y_i, y_j) a'_i a'_j.

The denominator, the norm of the fixed shape's areas alone, never cancels as that of a current may. For a flat
piece moved by d ≪ width along its normal, ``|μ - ν|² = 2 (1 - exp(-d²/(2 width²))) |ν|²``, so that the value is
d²/2. Far beyond the width it saturates (at width², for a shape as large as the fixed one) and no longer pulls.

What γ is makes the kind: t for currents (Vaillant & Glaunès, IPMI 2005), t² for unoriented varifolds (Charon &
Trouvé, SIAM J. Imaging Sci. 2013), an increasing function that sees which side is outside for oriented
varifolds (Kaltenmark, Charlier & Charon, CVPR 2017), 1 where there are no normals (Glaunès, Trouvé & Younes,
CVPR 2004; Gretton et al., JMLR 2012).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otreg.attachments.base import ShapeAttachment, default_scale, unit_mass
from otreg.attachments.diracs import Diracs
from otreg.attachments.geometry import Shape, area_normals, split_normals
from otreg.attachments.pairing import Pairing
from otreg.errors import InputError
from otreg.reductions.checks import positive

WIDTH_SHARE = 0.05
"""Default width, in diameters of the fixed shape: it sees misfits of up to three times that."""

WIDTH_SPACINGS = 2.0
"""Least default width, in spacings of the Diracs: below that, they no longer make a surface together."""

ORIENTATION_KERNELS = ("square", "linear", "exponential")


class Fixed(NamedTuple):
    """What calls need of the fixed shape: its Diracs, <ν, ν>, and the squared norm of its areas alone."""

    diracs: Diracs
    own: Tensor
    norm: Tensor


class KernelAttachment(ShapeAttachment):
    """Squared kernel norm of the difference between two shapes; see the subclasses.

    Differentiable any number of times in the moving points (with the Laplacian kernel: once). A kind of its own
    overrides :meth:`diracs`: positions and vectors whose kernel products, ``Σ_ij k(x_i, y_j) <v_i, w_j>``, are
    the inner product.

    Parameters
    ----------
    fixed : Surface, array or Tensor of shape (N, 3), or (points, triangles)
    width : float, optional
        Of the kernel, in the unit of the files: misfits much smaller or larger are hardly felt. By default 5%
        of the fixed shape's diameter (box diagonal), but at least twice the spacing of its Diracs.
    kernel : {"gaussian", "cauchy", "inverse_multiquadric", "laplacian"}
        ``exp(-r²/(2 width²))``, ``1/(1 + r²/width²)``, ``1/√(1 + r²/width²)``, ``exp(-r/width)``. Cauchy and
        the inverse multiquadric pull from further away; only the Gaussian runs on the fused engine. The Laplacian
        kernel has a kink at 0: first derivatives only, and values grow as d, not d².
    weights : array or Tensor, shape (N,), optional
        Masses of the points of a cloud.
    resolution : float, optional
        Side of the cells, in the unit of the files, within which Diracs are merged into one: far faster where
        triangles are much smaller than the width. A third of the width changes values, and gradients as a
        deformation of that width sees them, by one or two percent. None (the default) is exact.
    engine : {"auto", "fused", "keops", "blocks"}
        See :func:`otreg.reductions.kernel_sum`.
    """

    def __init__(
        self,
        fixed: Any,
        width: float | None = None,
        *,
        kernel: str = "gaussian",
        weights: Any = None,
        resolution: float | None = None,
        engine: str = "auto",
    ) -> None:
        super().__init__(fixed, weights, resolution)
        if width is None:
            width = default_scale(self._fixed, WIDTH_SHARE, WIDTH_SPACINGS, "width")
        self._pairing = Pairing(kernel, positive(width, "width"), engine)

    @property
    def width(self) -> float:
        """Width of the kernel, in the unit of the files."""
        return self._pairing.width

    @property
    def scale(self) -> float:
        """The width."""
        return self.width

    @property
    def norm(self) -> float:
        """``Σ_ij k(y_i, y_j) a'_i a'_j`` of the fixed shape: value · norm does not tell fixed from moving."""
        kept: Fixed = self._kept_for(self._fixed.points.dtype, self._fixed.points.device)
        return float(kept.norm)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._fixed!r}, width={self.width:.6g}{self._details()})"

    def _details(self) -> str:
        kernel = "" if self._pairing.kernel == "gaussian" else f", kernel={self._pairing.kernel!r}"
        return kernel + ("" if self.resolution is None else f", resolution={self.resolution:.6g}")

    def _prepare(self, diracs: Diracs) -> Fixed:
        positions, vectors = diracs.positions, diracs.vectors
        masses = diracs.masses.to(positions.dtype)[:, None]
        if positions.shape[1] == 3:
            own, norm = self._pairing.energies(positions, [vectors, masses])
        else:
            (own,) = self._pairing.energies(positions, [vectors])
            (norm,) = self._pairing.energies(positions[:, :3], [masses])
        return Fixed(diracs, own, norm)

    def _value(self, diracs: Diracs, kept: Fixed) -> Tensor:
        x, v = diracs.positions, diracs.vectors
        own = self._pairing.energy(x, v)
        cross = self._pairing.product(x, v, kept.diracs.positions, kept.diracs.vectors)
        return (0.5 * self.width**2) * (own - 2.0 * cross + kept.own) / kept.norm


class Current(KernelAttachment):
    """Currents: ``<μ, ν> = Σ_ij k(x_i, y_j) <n_i, n'_j>``, n being normals times areas; γ(t) = t.

    Sees which side is outside: both meshes must be oriented alike. Opposite sheets closer than the width cancel, so
    thin walls and fine folds disappear; noise cancels too. A sum of 3 channels, the cheapest of these.

    Vaillant & Glaunès, Surface matching via currents, IPMI 2005.
    """

    needs_triangles = True

    def diracs(self, shape: Shape, name: str) -> Diracs:
        assert shape.triangles is not None
        return Diracs(shape.sites(), area_normals(shape.points, shape.triangles), shape.masses())


class Varifold(KernelAttachment):
    """Varifolds: ``<μ, ν> = Σ_ij k(x_i, y_j) γ(<u_i, u'_j>) a_i a'_j``, unit normals u and areas a.

    Parameters
    ----------
    fixed, width, kernel, resolution, engine
        As for :class:`KernelAttachment`.
    oriented : bool
        Whether to tell outside from inside. Not by default: open or badly oriented meshes are welcome.
    orientation : {"square", "linear", "exponential"}, optional
        γ(t), t being the cosine between normals.
        "square" (unoriented): ``t²``, 6 channels, since ``<u, u'>² = <u uᵀ, u' u'ᵀ>``.
        "linear" (oriented): ``(1 + t)/2``, 4 channels; opposite normals do not see each other.
        "exponential" (oriented): ``exp((t - 1)/s²) = exp(-|u - u'|²/(2 s²))``, 1 channel in 6 dimensions; the
        default when oriented.
    orientation_width : float
        s, for "exponential": a difference of unit normals, 0.5 being about 29 degrees.

    Notes
    -----
    Charon & Trouvé, The varifold representation of nonoriented shapes for diffeomorphic registration, SIAM J.
    Imaging Sci. 2013. Kaltenmark, Charlier & Charon, A general framework for curve and surface comparison and
    registration with oriented varifolds, CVPR 2017, whose σ is s √2. A triangle without area counts for
    nothing, and has a zero gradient.
    """

    needs_triangles = True

    def __init__(
        self,
        fixed: Any,
        width: float | None = None,
        oriented: bool = False,
        *,
        orientation: str | None = None,
        orientation_width: float = 0.5,
        kernel: str = "gaussian",
        resolution: float | None = None,
        engine: str = "auto",
    ) -> None:
        orientation = orientation or ("exponential" if oriented else "square")
        if orientation not in ORIENTATION_KERNELS:
            raise InputError(
                f"unknown orientation {orientation!r}: use one of {', '.join(ORIENTATION_KERNELS)}"
            )
        if oriented == (orientation == "square"):
            raise InputError(
                f"orientation {orientation!r} is for {'unoriented' if oriented else 'oriented'} varifolds: "
                f"give oriented={not oriented}"
            )
        if orientation == "exponential" and kernel != "gaussian":
            raise InputError(
                f"orientation 'exponential' needs kernel 'gaussian', got {kernel!r}: use 'linear'"
            )
        self.oriented, self.orientation = oriented, orientation
        self.orientation_width = positive(orientation_width, "orientation_width")
        super().__init__(fixed, width, kernel=kernel, resolution=resolution, engine=engine)

    def _details(self) -> str:
        details = f", oriented={self.oriented}"
        if self.oriented:
            details += f", orientation={self.orientation!r}"
        if self.orientation == "exponential":
            details += f", orientation_width={self.orientation_width:g}"
        return details + super()._details()

    def diracs(self, shape: Shape, name: str) -> Diracs:
        assert shape.triangles is not None
        centres, normals = shape.sites(), area_normals(shape.points, shape.triangles)
        unit, area = split_normals(normals)
        masses = area.double()
        if self.orientation == "square":
            return Diracs(centres, area[:, None] * squares(unit), masses)
        if self.orientation == "linear":
            vectors = math.sqrt(0.5) * torch.cat([area[:, None], normals], dim=1)
            return Diracs(centres, vectors, masses)
        # a product of two Gaussians is one, with normals as three more coordinates
        turned = (self.width / self.orientation_width) * unit
        return Diracs(torch.cat([centres, turned], dim=1), area[:, None], masses)


class MMD(KernelAttachment):
    """Kernel mean discrepancy: ``<μ, ν> = Σ_ij k(x_i, y_j) a_i a'_j``, for meshes and point clouds alike.

    Masses are areas of triangles, or weights of points; each shape's are scaled to a total of 1, so that a
    mesh can be compared with a cloud and the number of points does not matter. Normals are not seen.

    Glaunès, Trouvé & Younes, Diffeomorphic matching of distributions, CVPR 2004; Gretton et al., A kernel
    two-sample test, JMLR 2012.
    """

    def diracs(self, shape: Shape, name: str) -> Diracs:
        masses = unit_mass(shape, name)
        return Diracs(shape.sites(), masses.to(shape.points.dtype)[:, None], masses)


def squares(unit: Tensor) -> Tensor:
    """The six entries of ``u uᵀ``, shape (T, 6), scaled so that ``<squares(u), squares(u')> = <u, u'>²``."""
    x, y, z = unit.unbind(dim=1)
    root = math.sqrt(2.0)
    return torch.stack([x * x, y * y, z * z, root * x * y, root * x * z, root * y * z], dim=1)
