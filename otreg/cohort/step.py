"""One subject in one pass of a template: correspondences, pose, momenta. Runs in a worker."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from otreg.cohort.archive import load_archive, save_archive
from otreg.cohort.geodesic import fit_geodesic
from otreg.cohort.momenta import MomentaSpace
from otreg.cohort.packing import pack, unpack_shape, unpack_space
from otreg.cohort.subjects import joined, parts_of
from otreg.deformations import Affine
from otreg.io import read
from otreg.registration import register
from otreg.registration.pose import Pose, procrustes
from otreg.surface import FloatArray, IntArray, Surface

STATE, TARGETS, FIT = "template-state", "template-targets", "template-fit"


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """The template before a pass, and where momenta are sought.

    Attributes
    ----------
    shape : Surface
        All structures as one.
    structures : tuple of str
    space : MomentaSpace
    control_index, fit_index : int arrays
        Vertices that are control points, and vertices whose targets are fitted.
    fit_weights : array
        Area that each of the latter stands for.
    moved_by : array, shape (C, 3)
        Momenta that moved the template here from where it was before, at the same control points; else zero.
    about : dict
        Where the work stands; see :mod:`otreg.cohort.averaging`.
    """

    shape: Surface
    structures: tuple[str, ...]
    space: MomentaSpace
    control_index: IntArray
    fit_index: IntArray
    fit_weights: FloatArray
    moved_by: FloatArray
    about: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        arrays, about = pack(self.space, self.shape)
        arrays.update(
            control_index=self.control_index,
            fit_index=self.fit_index,
            fit_weights=self.fit_weights,
            moved_by=self.moved_by,
        )
        about.update(structures=list(self.structures), work=self.about)
        save_archive(path, STATE, arrays, about)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read what :meth:`save` wrote."""
        arrays, about = load_archive(path, STATE)
        return cls(
            unpack_shape(arrays, about),
            tuple(about["structures"]),
            unpack_space(arrays, about),
            arrays["control_index"],
            arrays["fit_index"],
            arrays["fit_weights"],
            arrays["moved_by"],
            about["work"],
        )


def subject_step(case: Mapping[str, Any]) -> dict[str, Any]:
    """Find the momenta of one subject at the template as it is, and write them.

    Parameters
    ----------
    case : mapping
        ``state``, ``surfaces``, ``targets``, ``fit``, ``warm`` (paths; ``warm`` may be None), ``preset``,
        ``settings``, ``similarity``, ``stiffness``, ``labels``, ``repair``, ``device``, ``threads``, ``seed``.

    Returns
    -------
    dict
        Figures of the fit, ready for JSON.
    """
    state = State.load(Path(case["state"]))
    targets_path = Path(case["targets"])
    if not targets_path.is_file():
        _register(case, state).save(targets_path)
    targets = Targets.load(targets_path)
    weights = state.shape.weights
    pose = pose_of(targets.points, state.shape.points, weights, case["similarity"])
    aligned = apply(pose, targets.points)
    start = None
    if case["warm"] is not None and Path(case["warm"]).is_file():
        # the template has been moved by their mean since
        start = load_archive(case["warm"], FIT)[0]["momenta"] - state.moved_by
    index = state.fit_index
    began = time.perf_counter()
    found = fit_geodesic(
        state.space,
        state.shape.points[index],
        aligned[index],
        state.fit_weights,
        start=start,
        stiffness=case["stiffness"],
    )
    images, jacobians = state.space.flow(found.momenta).map_with_jacobian(state.shape.points)
    residuals = aligned - images
    # what no flow of these widths explains, seen from the template
    correction = np.linalg.solve(jacobians, residuals[:, :, None])[:, :, 0]
    share = weights / weights.sum()
    before = float(np.sqrt(share @ ((aligned - state.shape.points) ** 2).sum(axis=1)))
    rms = float(np.sqrt(share @ (residuals**2).sum(axis=1)))
    figures = {
        "norm": found.norm,
        "rms": rms,
        "before": before,
        "across": across(state.shape, aligned),
        "explained": 1.0 - (rms / before) ** 2 if before > 0.0 else 1.0,
        "outlying": found.outlying,
        "scale": pose[0],
        "size": centroid_size(targets.points, weights),
        "fit_seconds": time.perf_counter() - began,
        **targets.about,
    }
    arrays: dict[str, NDArray[Any]] = {
        "momenta": found.momenta,
        "correction": correction.astype(np.float32),
        "rotation": pose[1],
        "translation": pose[2],
    }
    save_archive(case["fit"], FIT, arrays, figures)
    return figures


@dataclasses.dataclass(frozen=True, eq=False)
class Targets:
    """Where the template's vertices belong in the space of a subject (V, 3), and the labels there, if asked for."""

    points: FloatArray
    labels: IntArray | None
    about: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write them, whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {"points": self.points}
        if self.labels is not None:
            arrays["labels"] = self.labels
        save_archive(path, TARGETS, arrays, self.about)

    @classmethod
    def load(cls, path: Path) -> Targets:
        """Read what :meth:`save` wrote."""
        arrays, about = load_archive(path, TARGETS)
        return cls(arrays["points"], arrays.get("labels"), about)


def _register(case: Mapping[str, Any], state: State) -> Targets:
    """Register the template to the subject, each structure on its own once all of them lie on one another.

    Structures of one subject keep their places to each other, so their common pose comes first: alone, a small
    round one could be matched turned over. They are matched apart, so that none is taken for its neighbour; that
    they share one deformation is up to the momenta.
    """
    began = time.perf_counter()
    shapes = [read(Path(path), repair=case["repair"]) for path in case["surfaces"]]
    parts = parts_of(state.shape)
    options = {"device": case["device"], "threads": case["threads"], "seed": case["seed"]}
    pose: Affine | None = None
    if len(parts) > 1:
        common = register(state.shape, joined(shapes, state.structures), "rigid", **options)
        assert isinstance(common.transform, Affine)
        pose = common.transform
        parts = [pose(part) for part in parts]
    moved, labels, distances, reasons = [], [], [], []
    for part, shape, name in zip(parts, shapes, state.structures, strict=True):
        bare = Surface(part.points, part.triangles, frame=shape.frame)
        result = register(bare, shape, case["preset"], settings=case["settings"], **options)
        moved.append(result.moved.points)
        distances.append(float(result.report["quality"]["after"]["assd"]))
        prefix = f"{name}: " if len(parts) > 1 else ""
        reasons += [prefix + str(reason) for reason in result.report["gate"]["reasons"]]
        if case["labels"] is not None:
            values = np.squeeze(shape.point_data[case["labels"]]).astype(np.int64)
            labels.append(values[cKDTree(shape.points).query(moved[-1])[1]])
    about = {
        "registered_assd": max(distances),
        "registered_reasons": reasons,
        "register_seconds": time.perf_counter() - began,
    }
    return Targets(np.concatenate(moved), np.concatenate(labels) if labels else None, about)


def pose_of(points: FloatArray, template: FloatArray, weights: FloatArray, similarity: bool) -> Pose:
    """Pose that brings a subject's points (V, 3) onto the template's, never a reflection.

    With ``similarity`` the sizes are made equal first, by the root-mean-square radius of each: a scale fitted by
    least squares would shrink every subject that differs.
    """
    if not similarity:
        return procrustes(points, template, weights, False)
    scale = centroid_size(template, weights) / centroid_size(points, weights)
    _, rotation, translation = procrustes(scale * points, template, weights, False)
    return scale, rotation, translation


def across(shape: Surface, moved: FloatArray) -> float:
    """How far vertices leave their surface: root-mean-square of the part of ``moved - points`` along the normals.

    Vertices that slide along a surface do not change its shape. Clouds have no normals: theirs is the whole way.
    """
    offset = moved - shape.points
    squares = (offset * shape.normals).sum(axis=1) ** 2 if shape.has_triangles else (offset**2).sum(axis=1)
    return float(np.sqrt(shape.weights @ squares / shape.weights.sum()))


def centroid_size(points: FloatArray, weights: FloatArray) -> float:
    """Root of the weighted mean squared distance from the weighted mean."""
    share = weights / weights.sum()
    return float(np.sqrt(share @ ((points - share @ points) ** 2).sum(axis=1)))


def apply(pose: Pose, points: FloatArray) -> FloatArray:
    """Points (N, 3) under a pose."""
    scale, rotation, translation = pose
    return np.asarray(scale * points @ rotation.T + translation, dtype=np.float64)
