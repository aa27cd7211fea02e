"""The inverse of a deformation that has no closed form, by Newton's method at every point."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from otreg.deformations.base import Deformation, PointsT, working_array, working_tensor
from otreg.deformations.matrices import adjugate, determinant
from otreg.deformations.matrices import inverse as inverse_matrices
from otreg.errors import InputError, NotInvertibleError

_MOST_HALVINGS = 30
_DECREASE = 1e-4  # share of the decrease promised by the derivative that a step must reach (Armijo)


class InverseReport(NamedTuple):
    """What solving ``phi(x) = y`` gave, point by point; arrays or tensors, as the points were.

    Attributes
    ----------
    points : (N, 3)
        x, the best that was found.
    residual : (N,)
        ``|phi(x) - y|`` in the unit of the files; NaN where y is not finite.
    converged : (N,) of bool
        Whether the residual is within the tolerance.
    folded : (N,) of bool
        Whether phi turns space inside out at x: its Jacobian determinant is not positive.
    """

    points: Any
    residual: Any
    converged: Any
    folded: Any


class InverseDeformation(Deformation):
    """The map ``y -> x`` with ``phi(x) = y``.

    Newton's method with the exact Jacobian and step halving, for all points together. Where phi has a
    positive Jacobian determinant everywhere the halved steps cannot stall short of a solution; where it
    folds, points are reported instead of given some value.

    Parameters
    ----------
    original : Deformation
        phi, of a kind with one closed form (a :class:`~otreg.deformations.Spline`). Composites are inverted
        stage by stage.
    tolerance : float
        Residual ``|phi(x) - y|`` to reach, in the unit of the files. Far from the origin rounding limits it.
    max_iterations : int, default 50
        Newton steps; 4 to 8 are usual.
    on_failure : {"raise", "nan"}, default "raise"
        What :meth:`map` does where phi has no inverse: raise NotInvertibleError, or give NaN at those points.

    Notes
    -----
    Differentiable once, with respect to points and to the parameters of phi, by the implicit function
    theorem: ``dx/dy = J⁻¹`` and ``dx/dtheta = -J⁻¹ dphi/dtheta``; no iteration is recorded. Points that are
    not finite stay so.
    """

    def __init__(
        self,
        original: Deformation,
        *,
        tolerance: float,
        max_iterations: int = 50,
        on_failure: str = "raise",
    ) -> None:
        super().__init__(**original._swapped())
        if on_failure not in ("raise", "nan"):
            raise InputError(f"unknown on_failure {on_failure!r}: use raise or nan")
        if not 0.0 < tolerance < float("inf"):
            raise InputError(f"the tolerance of an inverse must be positive, got {tolerance}")
        if max_iterations < 1:
            raise InputError(f"an inverse needs at least one iteration, got {max_iterations}")
        self.original = original
        self.tolerance = float(tolerance)
        self.max_iterations = int(max_iterations)
        self.on_failure = on_failure

    def __repr__(self) -> str:
        return f"InverseDeformation({self.original!r})"

    @property
    def inverse(self) -> Deformation:
        """The original deformation, the object itself."""
        return self.original

    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters of the original."""
        return self.original.parameters()

    def solve(self, points: PointsT) -> InverseReport:
        """Solve ``phi(x) = y`` and say how well that went, without raising and without gradients.

        Parameters
        ----------
        points : array or tensor, shape (N, 3)
            y, in the space of the fixed shape.

        Returns
        -------
        InverseReport
            ``points, residual, converged, folded``; numbers in the dtype of the points.
        """
        with torch.no_grad():
            if isinstance(points, Tensor):
                target, dtype = working_tensor(points)
                report, _, _ = self._solve(target)
                return InverseReport(report.points.to(dtype), report.residual.to(dtype), *report[2:])
            target, array_dtype = working_array(points)
            report, _, _ = self._solve(target)
            numbers = (np.asarray(part.numpy(), dtype=array_dtype) for part in report[:2])
            return InverseReport(*numbers, *(part.numpy() for part in report[2:]))

    def residuals(self, points: PointsT) -> Any:
        """Residuals ``|phi(x) - y|`` (N,) that solving for points y (N, 3) leaves; unit of the files."""
        return self.solve(points).residual

    def _map(self, points: Tensor) -> Tensor:
        with torch.no_grad():
            report, image, jacobian = self._solve(points.detach())
            failed = torch.isfinite(points).all(dim=1) & (~report.converged | report.folded)
            if self.on_failure == "raise" and bool(failed.any()):
                raise NotInvertibleError(complaint(points, report, failed))
            back = inverse_matrices(jacobian)
        x = report.points
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in self.parameters().values()):
            image = self.original._map(x)
        # One more Newton step: it squares the error, and its derivative is that of the implicit function.
        x = x - torch.einsum("nij,nj->ni", back, image - points)
        return torch.where(failed[:, None], torch.nan, x) if bool(failed.any()) else x

    def _jacobian(self, points: Tensor) -> Tensor:
        return inverse_matrices(self.original._jacobian(self._map(points)))

    def _map_and_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        x = self._map(points)
        return x, inverse_matrices(self.original._jacobian(x))

    def _solve(self, target: Tensor) -> tuple[InverseReport, Tensor, Tensor]:
        """Solution for each target, with the image of phi and its Jacobian there."""
        x, residual = self._solutions(target)
        image, jacobian = self.original._map_and_jacobian(x)
        residual = (image - target).norm(dim=1)
        finite = torch.isfinite(target).all(dim=1)
        x = torch.where(finite[:, None], x, target)
        folded = finite & ~(determinant(jacobian) > 0)
        return InverseReport(x, residual, residual <= self._tolerances(target), folded), image, jacobian

    def _tolerances(self, target: Tensor) -> Tensor:
        """Residual to reach at each target: the tolerance, or what rounding allows."""
        rounding = 16.0 * torch.finfo(target.dtype).eps * target.abs().amax(dim=1)
        return rounding.clamp_min(self.tolerance)

    def _solutions(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Best x found for each target, and its residual."""
        x, residual = self._start(target)
        tolerance = self._tolerances(target)
        active = torch.nonzero(residual > tolerance).squeeze(1)  # NaN is not: such a point is left alone
        for _ in range(self.max_iterations):
            if not len(active):
                break
            moved, left, better = self._step(x[active], target[active], residual[active])
            x[active], residual[active] = moved, left
            active = active[better & (left > tolerance[active])]
        return x, residual

    def _start(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """``y - d(y)``, near the solution for a small displacement d, or y itself if that is nearer."""
        image = self.original._map(target)
        guess = target - (image - target)
        residual = (image - target).norm(dim=1)
        guessed = (self.original._map(guess) - target).norm(dim=1)
        better = guessed < residual
        return torch.where(better[:, None], guess, target), torch.where(better, guessed, residual)

    def _step(self, x: Tensor, target: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One damped Newton step: new points, their residuals, and whether these fell."""
        image, jacobian = self.original._map_and_jacobian(x)
        error = image - target
        volume = determinant(jacobian)[:, None]
        newton = torch.einsum("nij,nj->ni", adjugate(jacobian), error) / volume
        # On a fold Newton's direction is not defined; the residual's own gradient still leads down.
        gradient = torch.einsum("nji,nj->ni", jacobian, error)
        step = torch.where(torch.isfinite(newton).all(dim=1, keepdim=True), newton, gradient)
        result, left = x.clone(), residual.clone()
        better = torch.zeros_like(residual, dtype=torch.bool)
        share = 1.0
        trying = torch.arange(len(x), device=x.device)
        for _ in range(_MOST_HALVINGS):
            trial = x[trying] - share * step[trying]
            reached = (self.original._map(trial) - target[trying]).norm(dim=1)
            good = reached < (1.0 - _DECREASE * share) * residual[trying]
            result[trying[good]], left[trying[good]] = trial[good], reached[good]
            better[trying[good]] = True
            trying = trying[~good]
            if not len(trying):
                break
            share *= 0.5
        return result, left, better


def complaint(target: Tensor, report: InverseReport, failed: Tensor) -> str:
    """One line: how many points failed, how, and where the worst is."""
    stuck = failed & ~report.converged
    folded = failed & report.folded & report.converged
    badness = torch.where(failed, torch.nan_to_num(report.residual, nan=torch.inf), -1.0)
    worst = int(badness.argmax())
    place = ", ".join(f"{value:.6g}" for value in target[worst].tolist())
    return (
        f"the map folds: no inverse at {int(failed.sum())} of {len(target)} points "
        f"({int(stuck.sum())} without a solution, {int(folded.sum())} where space is turned inside out); "
        f"worst at point {worst} ({place}), residual {float(report.residual[worst]):.3g}"
    )
