"""A finished template: the average shape, and what each subject is, seen from it."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otreg.cohort.archive import load_archive, save_archive, write_json
from otreg.cohort.momenta import MomentaSpace
from otreg.cohort.packing import pack, unpack_shape, unpack_space
from otreg.cohort.subjects import parts_of
from otreg.deformations import Affine, Composite, Diffeomorphism
from otreg.errors import InputError
from otreg.io import write
from otreg.io.files import atomic_path
from otreg.surface import FloatArray, Surface

if TYPE_CHECKING:
    from otreg.visualize import Scene

TEMPLATE, SURFACE, REPORT, SUMMARY = "template.h5", "template.vtk", "report.json", "summary.csv"
KIND = "template"
COLUMNS = ("norm", "explained", "rms", "before", "assd", "registered_assd", "dice", "scale", "outlying")
"""Figures of a subject in the summary: see ``docs/templates.md``."""


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
    """The average shape of a cohort, with one geodesic flow to each subject.

    Attributes
    ----------
    shape : Surface
        All structures as one mesh; point data ``structure`` tell several apart, ``spread`` is the root-mean-square
        displacement to the subjects, in the unit of the files.
    structures : tuple of str
    space : MomentaSpace
        Where the momenta live.
    names : tuple of str
        Of the N subjects that could be registered, in the order of the manifest.
    momenta : array, shape (N, C, 3)
        Their geodesics start with these.
    scales, rotations, translations : arrays, shape (N,), (N, 3, 3), (N, 3)
        Poses that bring each subject onto the template, ``x = s R y + t``; scales are 1 unless size was taken out.
    figures : tuple of dict
        Of each subject; see :data:`COLUMNS`.
    report : dict
        Settings, passes with their convergence, subjects that failed or do not fit; ready for JSON.
    """

    shape: Surface
    structures: tuple[str, ...]
    space: MomentaSpace
    names: tuple[str, ...]
    momenta: FloatArray
    scales: FloatArray
    rotations: FloatArray
    translations: FloatArray
    figures: tuple[dict[str, Any], ...]
    report: dict[str, Any]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return (
            f"Template({len(self)} subjects, {self.shape!r}, {len(self.space.control_points)} control points)"
        )

    @property
    def parts(self) -> dict[str, Surface]:
        """Each structure as a surface of its own."""
        return dict(zip(self.structures, parts_of(self.shape), strict=True))

    @property
    def poor_fits(self) -> dict[str, str]:
        """Subjects that do not fit, and why."""
        return {
            name: str(figures["poor"])
            for name, figures in zip(self.names, self.figures, strict=True)
            if figures["poor"]
        }

    def index(self, name: str) -> int:
        """Which row of the momenta a subject is.

        Raises
        ------
        InputError
            If there is no such subject.
        """
        if name not in self.names:
            raise InputError(f"the template has no subject {name!r}")
        return self.names.index(name)

    def transform(self, name: str) -> Composite:
        """The map from the template to a subject where its file has it: its pose, then its geodesic in that pose."""
        place = self.index(name)
        pose = self.scales[place], self.rotations[place], self.translations[place]
        return placed(self.space.flow(self.momenta[place]), pose)

    def in_template_pose(self, name: str) -> Surface:
        """The template carried along the geodesic of a subject, without its pose."""
        return self.space.flow(self.momenta[self.index(name)])(self.shape)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``template.h5``, ``template.vtk`` (and one file for each of several structures), ``report.json``
        and ``summary.csv`` into a folder, each whole or not at all."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        write(self.shape, target / SURFACE)
        if len(self.structures) > 1:
            for name, part in self.parts.items():
                write(part, target / f"template_{name}.vtk")
        write_json(target / REPORT, self.report)
        with atomic_path(target / SUMMARY) as temporary:
            temporary.write_text(self._summary(), encoding="utf-8", newline="")
        arrays, about = pack(self.space, self.shape)
        arrays.update(
            momenta=self.momenta,
            scales=self.scales,
            rotations=self.rotations,
            translations=self.translations,
        )
        about.update(
            structures=list(self.structures),
            names=list(self.names),
            figures=list(self.figures),
            report=self.report,
        )
        # last: where it is, the rest is there too
        save_archive(target / TEMPLATE, KIND, arrays, about)
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Template:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If the folder holds no template, or its file is damaged.
        """
        source = Path(folder)
        if not (source / TEMPLATE).is_file():
            raise InputError(
                f"{source}: is not the folder of a finished template, it has no {TEMPLATE}; see otreg template"
            )
        arrays, about = load_archive(source / TEMPLATE, KIND)
        try:
            shape = unpack_shape(arrays, about, path=str(source / SURFACE))
            space = unpack_space(arrays, about)
            return cls(
                shape,
                tuple(about["structures"]),
                space,
                tuple(about["names"]),
                space.checked(arrays["momenta"]),
                arrays["scales"],
                arrays["rotations"],
                arrays["translations"],
                tuple(about["figures"]),
                about["report"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{source / TEMPLATE}: the file is damaged ({error}): make it again") from None

    def plot(self, **options: Any) -> Scene:
        """A scene of the template, coloured by how far the subjects spread around it.

        Parameters
        ----------
        **options
            Those of :func:`otreg.visualize.scene`.
        """
        from otreg.visualize import scene

        shown = dataclasses.replace(self.shape, metadata={"path": "template"})
        return scene(shown, **{"color_by": "spread", **options})

    def _summary(self) -> str:
        rows = [
            {
                "subject": name,
                **figures,
                "fits": "no" if figures["poor"] else "yes",
                "reason": figures["poor"],
            }
            for name, figures in zip(self.names, self.figures, strict=True)
        ]
        rows += [
            {"subject": name, "fits": "failed", "reason": reason}
            for name, reason in self.report["failed"].items()
        ]
        return table_text(("subject", *COLUMNS, "fits", "reason"), rows)


def placed(flow: Diffeomorphism, pose: tuple[float, FloatArray, FloatArray]) -> Composite:
    """A flow around the template as the map to a subject where it lies: the pose first, then the flow in that pose.

    With the pose ``x = s R y + t`` of the subject, the flow φ becomes ``A φ A⁻¹``, A being the inverse of the
    pose: again a geodesic, of control points A z, momenta ``Rᵀ p / s`` and widths w / s.
    """
    scale, rotation, translation = float(pose[0]), np.asarray(pose[1]), np.asarray(pose[2])
    matrix = rotation.T / scale
    kind = "rigid" if scale == 1.0 else "similarity"
    place = Affine(matrix, -matrix @ translation, kind)
    there = Diffeomorphism(
        place.map(flow.control_points.detach().numpy()),
        flow.momenta.detach().numpy() @ matrix.T,
        tuple(width / scale for width in flow.widths),
        flow.kernel,
        flow.amplitudes,
        flow.steps,
        flow.method,
    )
    return Composite([place, there])


def table_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; numbers in full, None as an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    return text.getvalue()
