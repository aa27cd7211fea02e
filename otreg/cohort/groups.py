"""Where two groups of shapes differ: a test at every vertex, corrected for there being many."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from otreg.cohort.archive import load_archive, save_archive
from otreg.cohort.packing import pack_shape, unpack_shape
from otreg.cohort.permutations import check_permutations, orders, p_value
from otreg.cohort.template_result import Template
from otreg.errors import InputError
from otreg.surface import FloatArray, Surface

if TYPE_CHECKING:
    from otreg.visualize import Scene

KIND = "groups"

LEVEL = 0.05

_NUMBERS_AT_ONCE = 4_000_000
"""Displacements that are worked on together: vertices are taken in blocks of this many numbers over permutations."""

_RIDGE = 1e-9
"""Added to the covariances, as a share of the mean one: vertices that do not move have none."""


@dataclasses.dataclass(frozen=True, eq=False)
class GroupDifference:
    """Differences between two groups, vertex by vertex.

    Attributes
    ----------
    shape : Surface
        The template. Point data: ``difference`` (V, 3), mean displacement of the second group minus that of the
        first, in the unit of the files; ``statistic``; ``p_vertex``, uncorrected; ``p_corrected``, for the whole
        surface.
    column : str
        What tells the groups apart.
    groups : (str, str)
    counts : (int, int)
        Subjects in each.
    statistic : {"hotelling", "difference"}
    p_value : float
        Whether the groups differ anywhere: the smallest corrected one.
    permutations : int
    """

    shape: Surface
    column: str
    groups: tuple[str, str]
    counts: tuple[int, int]
    statistic: str
    p_value: float
    permutations: int

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it into one HDF5 file, whole or not at all."""
        arrays, about = pack_shape(self.shape)
        about.update(
            column=self.column,
            groups=list(self.groups),
            counts=list(self.counts),
            statistic=self.statistic,
            p_value=self.p_value,
            permutations=self.permutations,
        )
        save_archive(path, KIND, arrays, about)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GroupDifference:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is missing, damaged, or of another kind.
        """
        arrays, about = load_archive(path, KIND)
        first, second = about["groups"]
        one, other = about["counts"]
        return cls(
            unpack_shape(arrays, about, path="template"),
            about["column"],
            (first, second),
            (one, other),
            about["statistic"],
            about["p_value"],
            about["permutations"],
        )

    def plot(self, **options: Any) -> Scene:
        """A scene of the lengths of the difference beside the corrected p-values.

        Parameters
        ----------
        **options
            Those of :func:`otreg.visualize.scene`; ``color_by`` ``p_corrected`` shows the p-values.
        """
        from otreg.visualize import scene

        length = np.linalg.norm(self.shape.point_data["difference"], axis=1)
        caption = f"{self.groups[1]} minus {self.groups[0]}"
        shown = dataclasses.replace(self.shape.with_data({"difference": length}), metadata={"path": caption})
        return scene(shown, **{"color_by": "difference", **options})


def group_difference(
    template: Template | Surface,
    groups: Sequence[str | None],
    displacements: ArrayLike | None = None,
    *,
    column: str = "group",
    statistic: str = "hotelling",
    permutations: int = 10_000,
    seed: int = 0,
) -> GroupDifference:
    """Test at every vertex whether two groups differ, with correction for all vertices.

    Parameters
    ----------
    template : Template or Surface
        With a surface, ``displacements`` are needed.
    groups : sequence of str or None
        Of each subject; None leaves it out. The groups are ordered by name.
    displacements : array, shape (N, V, 3), optional
        Of the template's vertices to each subject, in the template's pose. Default: those of the template's flows.
    column : str, default "group"
        What tells the groups apart.
    statistic : {"hotelling", "difference"}
        Hotelling's T² of the displacement vectors, which asks whether a difference is large beside how subjects
        differ in that direction; or the length of the difference of the means, in the unit of the files, for
        groups too small to estimate three variances and three covariances.
    permutations : int, default 10000
        Of the subjects over the groups.
    seed : int, default 0

    Returns
    -------
    GroupDifference

    Raises
    ------
    InputError
        Unless there are exactly two groups of two or more subjects; for T², six in all.

    Notes
    -----
    Corrected p-values are those of the largest statistic over all vertices under each permutation (Westfall & Young
    1993; Nichols & Holmes 2002, Hum. Brain Mapp. 15): the chance that no difference at all gives any vertex that is
    marked is at most the level, however the vertices depend on each other.
    """
    check_permutations(permutations)
    if statistic not in ("hotelling", "difference"):
        raise InputError(f"unknown statistic {statistic!r}: use hotelling or difference")
    shape, moved = _displacements(template, displacements)
    if len(groups) != len(moved):
        raise InputError(f"{column} must have one value for each of {len(moved)} subjects, got {len(groups)}")
    labels = sorted({str(group) for group in groups if group is not None})
    if len(labels) != 2:
        raise InputError(
            f"{column} must tell two groups apart, got {len(labels)}: {', '.join(labels[:5]) or 'none'}"
        )
    known = np.array([group is not None for group in groups])
    second = np.array([str(group) == labels[1] for group in groups])[known]
    moved = moved[known]
    counts = int((~second).sum()), int(second.sum())
    least = 6 if statistic == "hotelling" else 4
    if min(counts) < 2 or sum(counts) < least:
        raise InputError(
            f"{column}: groups of {counts[0]} and {counts[1]} subjects are too small for the {statistic} test: it "
            f"wants two in each and {least} in all"
        )
    observed, largest, as_large = _permuted(moved, second, statistic, permutations, seed)
    ordered = np.sort(largest)
    above = len(ordered) - np.searchsorted(ordered, observed * (1.0 - 1e-9), side="left")
    data = {
        "difference": moved[second].mean(axis=0) - moved[~second].mean(axis=0),
        "statistic": observed,
        "p_vertex": (1.0 + as_large) / (1.0 + permutations),
        "p_corrected": (1.0 + above) / (1.0 + permutations),
    }
    return GroupDifference(
        shape.with_data(data),
        column,
        (labels[0], labels[1]),
        counts,
        statistic,
        p_value(float(observed.max()), largest),
        permutations,
    )


def _displacements(template: Template | Surface, given: ArrayLike | None) -> tuple[Surface, FloatArray]:
    if isinstance(template, Template):
        shape = template.shape
        if given is None:
            flows = (template.space.flow(momenta) for momenta in template.momenta)
            # a cohort of thousands on tens of thousands of vertices: single precision halves the memory
            return shape, np.stack(
                [(flow.map(shape.points) - shape.points).astype(np.float32) for flow in flows]
            )
    elif given is None:
        raise InputError("displacements are needed where no template is given")
    else:
        shape = template
    array = np.asarray(given)
    if array.ndim != 3 or array.shape[1:] != (len(shape), 3) or not np.isfinite(array).all():
        raise InputError(f"displacements must be finite, of shape (N, {len(shape)}, 3), got {array.shape}")
    return shape, array


def _permuted(
    moved: FloatArray, second: np.ndarray, statistic: str, permutations: int, seed: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Observed statistic (V,), the largest of each permutation (P,), and how many are as large at a vertex (V,)."""
    subjects, vertices = moved.shape[:2]
    observed = np.empty(vertices)
    as_large = np.zeros(vertices)
    largest = np.zeros(permutations)
    width = max(_NUMBERS_AT_ONCE // (3 * max(subjects, 256)), 1)
    spread = subjects * float(moved.var(axis=0, dtype=np.float64).mean())
    ridge = _RIDGE * spread if spread > 0.0 else 1.0
    for first in range(0, vertices, width):
        part = slice(first, first + width)
        block = _Block(moved[:, part].astype(np.float64), int(second.sum()), statistic, ridge)
        observed[part] = here = block.statistics(second[None].astype(np.float64))[0]
        place = 0
        for order in orders(subjects, permutations, seed):
            found = block.statistics(second[order].astype(np.float64))
            np.maximum(
                largest[place : place + len(order)],
                found.max(axis=1),
                out=largest[place : place + len(order)],
            )
            as_large[part] += (found >= here * (1.0 - 1e-9)).sum(axis=0)
            place += len(order)
    return observed, largest, as_large


class _Block:
    """The statistic at some vertices for many memberships at once.

    The sum of squares and products about the common mean is the same for all of them; that within the groups is
    less by what lies between: ``W = S - n₁ n₂ / n d dᵀ``, d being the difference of the means.
    """

    def __init__(self, moved: FloatArray, count: int, statistic: str, ridge: float) -> None:
        subjects = len(moved)
        centred = moved - moved.mean(axis=0)
        self.flat = centred.reshape(subjects, -1)
        self.count, self.others = count, subjects - count
        self.statistic = statistic
        if statistic == "hotelling":
            total = np.einsum("nvi,nvj->vij", centred, centred)
            total += ridge * np.eye(3)
            self.inverse = np.linalg.inv(total)

    def statistics(self, second: FloatArray) -> FloatArray:
        """For memberships (P, N) of 0 and 1: (P, V)."""
        # the mean of all is zero, so the sum over the first group is that over the second, reversed
        sums = (second @ self.flat).reshape(len(second), -1, 3)
        difference = sums * (1.0 / self.count + 1.0 / self.others)
        if self.statistic == "difference":
            return np.asarray(np.linalg.norm(difference, axis=2))
        weight = self.count * self.others / (self.count + self.others)
        # Sherman & Morrison: d' W⁻¹ d = q / (1 - weight q) with q = d' S⁻¹ d
        q = np.einsum("pvi,vij,pvj->pv", difference, self.inverse, difference, optimize=True)
        freedom = self.count + self.others - 2
        return np.asarray(freedom * weight * q / np.maximum(1.0 - weight * q, 1e-12))
