"""Principal components of momenta under the kernel's metric."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from otreg.cohort.archive import load_archive, save_archive
from otreg.cohort.momenta import MomentaSpace, distances
from otreg.cohort.packing import pack, unpack_shape, unpack_space
from otreg.cohort.template_result import Template
from otreg.errors import InputError
from otreg.surface import FloatArray, Surface

if TYPE_CHECKING:
    from otreg.visualize import Scene

KIND = "components"

_NOTHING = 1e-10
"""Share of the largest variance below which a component is rounding."""


@dataclasses.dataclass(frozen=True, eq=False)
class Components:
    """What differs most between the subjects.

    Attributes
    ----------
    shape : Surface
        The template.
    space : MomentaSpace
    names : tuple of str
        Of the N subjects.
    mean : array, shape (C, 3)
        Mean of their momenta; next to nothing at a template that is balanced.
    modes : array, shape (K, C, 3)
        Orthonormal, ``<m_k, m_l> = δ_kl``; of the two signs, the one whose largest score is positive.
    variances : array, shape (K,)
        Of the scores, with N - 1 in the denominator, largest first, in squared units of length.
    total : float
        Variance of all components that there are.
    scores : array, shape (N, K)
        ``<p_n - mean, m_k>``, in the unit of the files.
    distances : array, shape (N, N)
        ``|p_n - p_m|``: lengths in the tangent space at the template.
    """

    shape: Surface
    space: MomentaSpace
    names: tuple[str, ...]
    mean: FloatArray
    modes: FloatArray
    variances: FloatArray
    total: float
    scores: FloatArray
    distances: FloatArray

    def __len__(self) -> int:
        return len(self.modes)

    @property
    def explained(self) -> FloatArray:
        """Share of the total variance that each component explains, (K,)."""
        return self.variances / self.total if self.total > 0.0 else np.zeros_like(self.variances)

    def momenta(self, mode: int, deviations: float) -> FloatArray:
        """Momenta ``deviations`` standard deviations along a mode, counted from 0: (C, 3)."""
        if not 0 <= mode < len(self):
            raise InputError(f"mode must be one of 0 to {len(self) - 1}, got {mode}")
        return np.asarray(deviations * np.sqrt(self.variances[mode]) * self.modes[mode], dtype=np.float64)

    def surface(self, mode: int, deviations: float) -> Surface:
        """The template carried ``deviations`` standard deviations along a mode, counted from 0."""
        return self.space.flow(self.momenta(mode, deviations))(self.shape)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it into one HDF5 file, whole or not at all."""
        arrays, about = pack(self.space, self.shape)
        arrays.update(
            mean=self.mean,
            modes=self.modes,
            variances=self.variances,
            scores=self.scores,
            distances=self.distances,
        )
        save_archive(path, KIND, arrays, {**about, "names": list(self.names), "total": self.total})
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Components:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is missing, damaged, or of another kind.
        """
        arrays, about = load_archive(path, KIND)
        return cls(
            unpack_shape(arrays, about, path="template"),
            unpack_space(arrays, about),
            tuple(about["names"]),
            arrays["mean"],
            arrays["modes"],
            arrays["variances"],
            about["total"],
            arrays["scores"],
            arrays["distances"],
        )

    def plot(self, mode: int = 0, deviations: float = 2.0, **options: Any) -> Scene:
        """A scene of the two ends of a mode with the template between them.

        Parameters
        ----------
        mode : int, default 0
        deviations : float, default 2
            How far the ends are from the template, in standard deviations.
        **options
            Those of :func:`otreg.visualize.scene`.
        """
        from otreg.visualize import scene

        ends = [self.surface(mode, sign * deviations) for sign in (-1.0, 1.0)]
        moved = np.linalg.norm(ends[1].points - ends[0].points, axis=1)
        shown = [ends[0], self.shape, ends[1]]
        captions = [
            f"mode {mode + 1}: {-deviations:+g} sd",
            "template",
            f"mode {mode + 1}: {deviations:+g} sd",
        ]
        panels = [
            dataclasses.replace(shape.with_data({"difference": moved}), metadata={"path": caption})
            for shape, caption in zip(shown, captions, strict=True)
        ]
        return scene(*panels, **{"side_by_side": True, "color_by": "difference", **options})


def principal_components(
    template: Template | MomentaSpace,
    momenta: ArrayLike | None = None,
    *,
    modes: int | None = None,
    names: tuple[str, ...] | None = None,
) -> Components:
    """Principal components of the momenta of a cohort, under the kernel's metric.

    Parameters
    ----------
    template : Template or MomentaSpace
        With a space alone, ``momenta`` are needed, and the shape of the result is its control points.
    momenta : array, shape (N, C, 3), optional
        Default: those of the template.
    modes : int, optional
        Most components that are kept. Default: all that there are, at most N - 1.
    names : tuple of str, optional
        Of the subjects. Default: those of the template, or their numbers.

    Returns
    -------
    Components

    Raises
    ------
    InputError
        On fewer than two subjects, or momenta of another shape.

    Notes
    -----
    ``G_nm = <p_n - p̄, p_m - p̄>`` has the eigenvalues ``(N - 1) λ_k`` and eigenvectors u_k; the modes are
    ``m_k = Σ_n u_kn (p_n - p̄) / sqrt((N - 1) λ_k)``: what an eigendecomposition of the covariance operator on the
    space of velocity fields gives, for the price of an N × N matrix (Vaillant et al. 2004, NeuroImage 23, section 4).
    """
    space, shape, array, called = given_momenta(template, momenta, names)
    if len(array) < 2:
        raise InputError(f"principal components need two or more subjects, got {len(array)}")
    if modes is not None and (isinstance(modes, bool) or not isinstance(modes, int) or modes < 1):
        raise InputError(f"modes must be a whole number of 1 or more, got {modes!r}")
    mean = array.mean(axis=0)
    centred = array - mean
    gram = space.gram(centred)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    total = float(np.trace(gram))
    kept = int((values > _NOTHING * max(total, 0.0)).sum()) if total > 0.0 else 0
    kept = min(kept, len(array) - 1, kept if modes is None else modes)
    values, vectors = np.maximum(values[:kept], 0.0), vectors[:, :kept]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(kept)])
    found = np.einsum("nk,ncd->kcd", vectors / np.sqrt(values), centred)
    freedom = len(array) - 1
    return Components(
        shape,
        space,
        called,
        mean,
        found,
        values / freedom,
        total / freedom,
        vectors * np.sqrt(values),
        distances(gram),
    )


def given_momenta(
    template: Template | MomentaSpace, momenta: ArrayLike | None, names: tuple[str, ...] | None
) -> tuple[MomentaSpace, Surface, FloatArray, tuple[str, ...]]:
    """Space, shape, momenta (N, C, 3) and names, whichever way they were given."""
    if isinstance(template, Template):
        space, shape = template.space, template.shape
        array = template.momenta if momenta is None else space.checked(momenta)
        called = template.names if names is None and momenta is None else names
    else:
        if momenta is None:
            raise InputError("momenta are needed where no template is given")
        space, shape, called = template, Surface(template.control_points), names
        array = space.checked(momenta)
    called = tuple(str(k + 1) for k in range(len(array))) if called is None else tuple(called)
    if len(called) != len(array):
        raise InputError(f"{len(array)} momenta but {len(called)} names")
    return space, shape, array, called
