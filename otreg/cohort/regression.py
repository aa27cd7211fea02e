"""Regression of shape on one covariate: the geodesic of shapes that follows age, time or a score."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from otreg.cohort.archive import load_archive, save_archive
from otreg.cohort.components import given_momenta
from otreg.cohort.momenta import MomentaSpace
from otreg.cohort.packing import pack, unpack_shape, unpack_space
from otreg.cohort.permutations import check_permutations, orders, p_value
from otreg.cohort.template_result import Template
from otreg.errors import InputError
from otreg.surface import FloatArray, Surface

if TYPE_CHECKING:
    from otreg.visualize import Scene

KIND = "regression"


@dataclasses.dataclass(frozen=True, eq=False)
class Regression:
    """How shape goes with a covariate.

    Attributes
    ----------
    shape : Surface
        The template.
    space : MomentaSpace
    on : str
        Name of the covariate.
    names : tuple of str
        Of the N subjects that have it.
    values : array, shape (N,)
        The covariate.
    intercept, slope : array, shape (C, 3)
        Momenta at the mean of the covariate, and their change for one unit of it.
    r_squared : float
        Share of ``Σ |p_n - p̄|²`` that the covariate explains.
    p_value : float
        Of a permutation test of it.
    permutations : int
    residuals : array, shape (N,)
        ``|p_n - p(t_n)|``, in the unit of the files.
    """

    shape: Surface
    space: MomentaSpace
    on: str
    names: tuple[str, ...]
    values: FloatArray
    intercept: FloatArray
    slope: FloatArray
    r_squared: float
    p_value: float
    permutations: int
    residuals: FloatArray

    def momenta(self, value: float) -> FloatArray:
        """Momenta (C, 3) that are expected at a value of the covariate."""
        return np.asarray(self.intercept + (value - self.values.mean()) * self.slope, dtype=np.float64)

    def surface(self, value: float) -> Surface:
        """The shape that is expected at a value of the covariate, in the template's pose."""
        return self.space.flow(self.momenta(value))(self.shape)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it into one HDF5 file, whole or not at all."""
        arrays, about = pack(self.space, self.shape)
        arrays.update(
            values=self.values, intercept=self.intercept, slope=self.slope, residuals=self.residuals
        )
        about.update(
            on=self.on,
            names=list(self.names),
            r_squared=self.r_squared,
            p_value=self.p_value,
            permutations=self.permutations,
        )
        save_archive(path, KIND, arrays, about)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Regression:
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
            about["on"],
            tuple(about["names"]),
            arrays["values"],
            arrays["intercept"],
            arrays["slope"],
            about["r_squared"],
            about["p_value"],
            about["permutations"],
            arrays["residuals"],
        )

    def plot(self, **options: Any) -> Scene:
        """A scene of the shapes expected at the smallest, the mean and the largest value of the covariate.

        Parameters
        ----------
        **options
            Those of :func:`otreg.visualize.scene`.
        """
        from otreg.visualize import scene

        chosen = [float(self.values.min()), float(self.values.mean()), float(self.values.max())]
        shapes = [self.surface(value) for value in chosen]
        moved = np.linalg.norm(shapes[-1].points - shapes[0].points, axis=1)
        panels = [
            dataclasses.replace(
                shape.with_data({"difference": moved}), metadata={"path": f"{self.on} = {value:.4g}"}
            )
            for shape, value in zip(shapes, chosen, strict=True)
        ]
        return scene(*panels, **{"side_by_side": True, "color_by": "difference", **options})


def geodesic_regression(
    template: Template | MomentaSpace,
    values: ArrayLike,
    momenta: ArrayLike | None = None,
    *,
    on: str = "covariate",
    names: tuple[str, ...] | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> Regression:
    """Fit ``p(t) = p_0 + (t - t̄) v`` to the momenta of a cohort, under the kernel's metric.

    Parameters
    ----------
    template : Template or MomentaSpace
    values : array, shape (N,)
        t, one for each subject. Subjects whose value is NaN are left out.
    momenta : array, shape (N, C, 3), optional
        Default: those of the template.
    on : str, default "covariate"
        What t is called.
    names : tuple of str, optional
    permutations : int, default 10000
        Of the covariate over the subjects, for the p-value.
    seed : int, default 0

    Returns
    -------
    Regression

    Raises
    ------
    InputError
        On another number of values, fewer than three that are known, or values that are all the same.

    Notes
    -----
    Geodesic regression (Fletcher 2013, Int. J. Comput. Vis. 105; Niethammer, Huang & Vialard 2011) minimises the
    squared distances from the shapes to a geodesic. Here this is done in the tangent space at the template, where
    ``Σ_n |p_n - p_0 - (t_n - t̄) v|²`` is least for the ordinary least-squares line, whatever the metric, and the
    expected shapes are shot from the template. It is exact where shapes differ along one geodesic through the
    template; otherwise distances are those of the tangent space, which curvature makes differ at second order in
    their size. The p-value permutes t, for which all that counts is the Gram matrix.
    """
    check_permutations(permutations)
    space, shape, array, called = given_momenta(template, momenta, names)
    covariate = np.asarray(values, dtype=np.float64)
    if covariate.shape != (len(array),):
        raise InputError(f"{on} must have one value for each of {len(array)} subjects, got {covariate.shape}")
    known = np.isfinite(covariate)
    if int(known.sum()) < 3:
        raise InputError(f"{on} is known of {int(known.sum())} subjects; a regression needs three or more")
    array, covariate = array[known], covariate[known]
    centred_values = covariate - covariate.mean()
    spread = float(centred_values @ centred_values)
    if not spread > 1e-24 * max(float(covariate @ covariate), 1e-300):
        raise InputError(f"{on} is the same for all subjects: there is nothing to regress on")
    mean = array.mean(axis=0)
    centred = array - mean
    gram = space.gram(centred)
    total = float(np.trace(gram))
    slope = np.einsum("n,ncd->cd", centred_values, centred) / spread
    explained = float(centred_values @ gram @ centred_values) / spread
    found = []
    for block in orders(len(array), permutations, seed):
        shuffled = centred_values[block]
        found.append(((shuffled @ gram) * shuffled).sum(axis=1) / spread)
    residuals = space.norms(centred - centred_values[:, None, None] * slope)
    return Regression(
        shape,
        space,
        on,
        tuple(name for name, there in zip(called, known, strict=True) if there),
        covariate,
        mean,
        slope,
        explained / total if total > 0.0 else 0.0,
        p_value(explained, np.concatenate(found)),
        permutations,
        residuals,
    )
