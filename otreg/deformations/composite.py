"""Deformations one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from otreg.deformations.affine import Affine
from otreg.deformations.base import Deformation
from otreg.errors import InputError


class Composite(Deformation):
    """The map that applies several deformations, the first of the list first.

    Parameters
    ----------
    stages : sequence of Deformation
        At least one. Composites among them are replaced by their own stages.
    moving_frame, fixed_frame : str, optional
        By default those of the first and of the last stage.
    metadata : mapping, optional
        See :class:`~otreg.deformations.base.Deformation`. By default what the first stage says of the moving
        shape (keys that begin with ``moving``) and the last stage of the fixed one.

    Raises
    ------
    InputError
        On an empty list, something that is not a deformation, or a stage that begins in another frame than
        the one before it ends in.
    """

    def __init__(
        self,
        stages: Iterable[Deformation],
        *,
        moving_frame: str | None = None,
        fixed_frame: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        given = list(stages)
        if not given:
            raise InputError("a composite needs at least one transform")
        for number, stage in enumerate(given):
            if not isinstance(stage, Deformation):
                raise InputError(f"transform {number + 1} of a composite is a {type(stage).__name__}")
        for number, (before, after) in enumerate(itertools.pairwise(given)):
            if before.fixed_frame and after.moving_frame and before.fixed_frame != after.moving_frame:
                raise InputError(
                    f"transform {number + 1} ends in {before.fixed_frame} coordinates, but transform "
                    f"{number + 2} begins in {after.moving_frame}: convert one of them first"
                )
        first, last = given[0], given[-1]
        if metadata is None:
            metadata = {key: value for key, value in first.metadata.items() if key.startswith("moving")} | {
                key: value for key, value in last.metadata.items() if key.startswith("fixed")
            }
        super().__init__(
            moving_frame=moving_frame or first.moving_frame,
            fixed_frame=fixed_frame or last.fixed_frame,
            metadata=metadata,
        )
        self.stages: tuple[Deformation, ...] = tuple(
            part for stage in given for part in (stage.stages if isinstance(stage, Composite) else (stage,))
        )

    def __repr__(self) -> str:
        return f"Composite([{', '.join(map(repr, self.stages))}])"

    def __len__(self) -> int:
        return len(self.stages)

    @property
    def inverse(self) -> Composite:
        """The inverses of the stages, the last one's first."""
        return Composite([stage.inverse for stage in reversed(self.stages)], **self._swapped())

    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters of all stages, named ``<number of the stage>.<name>`` from 0."""
        return {
            f"{number}.{name}": tensor
            for number, stage in enumerate(self.stages)
            for name, tensor in stage.parameters().items()
        }

    def simplified(self) -> Deformation:
        """Return the same map with neighbouring affine stages multiplied out; one Affine if that is all."""
        merged: list[Deformation] = []
        for stage in self.stages:
            before = merged[-1] if merged else None
            if isinstance(stage, Affine) and isinstance(before, Affine):
                merged[-1] = stage.after(before)
            else:
                merged.append(stage)
        about: dict[str, Any] = {
            "moving_frame": self.moving_frame,
            "fixed_frame": self.fixed_frame,
            "metadata": self.metadata,
        }
        if len(merged) == 1 and isinstance(merged[0], Affine):
            return Affine(merged[0].matrix, merged[0].translation, merged[0].kind, **about)
        return Composite(merged, **about)

    def _map(self, points: Tensor) -> Tensor:
        for stage in self.stages:
            points = stage._map(points)
        return points

    def _jacobian(self, points: Tensor) -> Tensor:
        total: Tensor | None = None
        for stage in self.stages[:-1]:
            points, jacobian = stage._map_and_jacobian(points)
            total = jacobian if total is None else jacobian @ total
        jacobian = self.stages[-1]._jacobian(points)
        return jacobian if total is None else jacobian @ total

    def _map_and_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.eye(3, dtype=points.dtype, device=points.device)
        for stage in self.stages:
            points, jacobian = stage._map_and_jacobian(points)
            total = jacobian @ total
        return points, total


def compose(*transforms: Deformation) -> Deformation:
    """Return the map that applies ``transforms[0]`` first and the last one last.

    Raises
    ------
    InputError
        Without any transform, or when one begins in another frame than the one before it ends in.
    """
    if len(transforms) == 1 and isinstance(transforms[0], Deformation):
        return transforms[0]
    return Composite(transforms)


def split_pose(transform: Deformation) -> tuple[Affine | None, Deformation | None]:
    """A map as its pose, the affine stages that come first, and the rest.

    Parameters
    ----------
    transform : Deformation

    Returns
    -------
    pose : Affine or None
        From the moving shape's space to where the rest begins; None without affine stages in front.
    rest : Deformation or None
        None for a map that is affine from end to end.
    """
    stages = list(transform.stages) if isinstance(transform, Composite) else [transform]
    pose: Affine | None = None
    while stages and isinstance(stages[0], Affine):
        first = stages.pop(0)
        assert isinstance(first, Affine)
        pose = first if pose is None else first.after(pose)
    return pose, compose(*stages) if stages else None
