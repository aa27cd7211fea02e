"""Diffeomorphisms: maps that flow along the velocity of a few control points, and their inverses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from otreg.autodiff.schedule import schedule_of
from otreg.deformations.base import parameter_tensor
from otreg.deformations.control_points import ControlPointDeformation
from otreg.deformations.inverse import InverseDeformation, complaint
from otreg.deformations.matrices import inverse as inverse_matrices
from otreg.errors import InputError, NotInvertibleError
from otreg.flows.runge_kutta import METHODS
from otreg.flows.shooting import Path, carry, carry_with_jacobian, drift, hamiltonian, shoot

_INVERSE_TOLERANCE = 1e-10  # of the extent
_MOST_CORRECTIONS = 4


@final  # so that type checkers know that none is a Spline as well
class Diffeomorphism(ControlPointDeformation):
    """The map at time 1 of the flow ``ẋ = Σ_j K(|x - q_j(t)|) p_j(t)``, with ``K = Σ_s a_s k(r / width_s)``.

    The velocity is smooth, so the map is invertible however large it is, as far as the steps resolve it.

    Parameters
    ----------
    control_points : array_like or tensor, shape (C, 3)
        q at time 0, at least one, in the unit of the files. Float64 tensors are kept as they are, so that
        gradients reach them. They are carried along by the flow.
    momenta : array_like or tensor, shape (C, 3) or (T, C, 3)
        p, in the unit of the files: where only one control point acts, a point beside it starts with the
        velocity p, and would move by p in the whole time if nothing changed.
        (C, 3): at time 0; control points and momenta then follow the geodesic that they start (shooting).
        (T, C, 3): constant in each of T equal intervals of time, in which the control points are carried
        along. This is no geodesic, not even with T = 1: momenta (1, C, 3) are held constant for the whole time.
    width : float or sequence of float
        Several widths share the momenta. Gaussian: sigma in ``exp(-r² / (2 sigma²))``. Wendland: the radius
        beyond which the kernel is zero. In the unit of the files. Gaussians whose widths halve (or shrink by
        √2, 2√2, 4) are summed twice as fast as those of other widths.
    kernel : {"gaussian", "wendland"}
        As for a :class:`~otreg.deformations.Spline`.
    amplitudes : sequence of float, optional
        a, one positive number for each width; all one by default.
    steps : int, default 10
        Steps of the integrator. With T intervals each gets the same number, at least one, rounded up.
    method : {"rk4", "midpoint", "euler"}
        Order 4, 2 or 1, at four, two or one evaluations of the velocity a step.
    memory : default "sqrt"
        What a backward pass keeps of the steps: see :func:`otreg.flows.integrate`.
    moving_frame, fixed_frame, metadata
        See :class:`~otreg.deformations.base.Deformation`.

    Raises
    ------
    InputError
        On wrong shapes, numbers that are not finite, a width or an amplitude that is not positive, an unknown
        kernel, method or memory, or a number of steps that is not a whole number of at least 1.

    Notes
    -----
    Nothing of size N × C is ever stored, with or without gradients. The path of the control points is kept
    between calls, and integrated anew when they or the momenta have changed or carry gradients.
    """

    def __init__(
        self,
        control_points: Any,
        momenta: Any,
        width: float | Sequence[float],
        kernel: str = "gaussian",
        amplitudes: Sequence[float] | None = None,
        steps: int = 10,
        method: str = "rk4",
        *,
        memory: Any = "sqrt",
        moving_frame: str | None = None,
        fixed_frame: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            control_points,
            width,
            kernel,
            amplitudes,
            moving_frame=moving_frame,
            fixed_frame=fixed_frame,
            metadata=metadata,
        )
        varying = getattr(momenta, "ndim", 0) == 3 or _depth(momenta) == 3
        shape = (len(self.control_points), 3)
        self.momenta = parameter_tensor(momenta, (None, *shape) if varying else shape, "momenta")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InputError(f"steps must be a whole number of at least 1, got {steps!r}")
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
        schedule_of(memory, steps, "memory")  # refuses what no backward pass could follow
        self.steps = steps
        self.method = method
        self.memory = memory
        self._kept: tuple[Tensor, Tensor, Path] | None = None

    def __repr__(self) -> str:
        how = f"{self.intervals} intervals" if self.intervals else "shooting"
        return f"Diffeomorphism({self._about()}, {how}, {self.steps} steps of {self.method})"

    @property
    def intervals(self) -> int:
        """T where the momenta are constant in T intervals, 0 for geodesic shooting."""
        return len(self.momenta) if self.momenta.ndim == 3 else 0

    @property
    def inverse(self) -> InverseFlow:
        """The inverse: points carried backwards along the path, then corrected to 1e-10 of :attr:`extent`."""
        return InverseFlow(self, tolerance=_INVERSE_TOLERANCE * self.extent)

    def parameters(self) -> dict[str, Tensor]:
        """Return ``control_points`` (C, 3) and ``momenta`` (C, 3) or (T, C, 3)."""
        return {"control_points": self.control_points, "momenta": self.momenta}

    def energy(self) -> Tensor:
        """Energy of the flow, ``∫ H dt`` with ``H = ½ Σ_ij K(|q_i - q_j|) p_i·p_j``, a scalar.

        By this the flow is regularised: half the squared length of the path from the identity to the map. On a
        geodesic H is constant, and the energy needs no integration. Otherwise H is averaged over time by
        Simpson's rule on the steps. Differentiable in the parameters.
        """
        if not self.intervals:
            return hamiltonian(self.control_points, self.momenta, self.mixed_kernel)
        path = self.path()
        each = path.steps // self.intervals
        total = self.momenta.new_zeros(())
        for interval in range(self.intervals):
            for place in range(2 * each + 1):
                weight = 1.0 if place in (0, 2 * each) else (4.0 if place % 2 else 2.0)
                here = path.at(2 * each * interval + place, interval)
                total = total + weight / (6.0 * path.steps) * hamiltonian(*here, self.mixed_kernel)
        return total

    def path(self) -> Path:
        """Control points and momenta at all times, with gradients if these are on and wanted."""
        points, momenta = self.control_points, self.momenta
        if torch.is_grad_enabled() and (points.requires_grad or momenta.requires_grad):
            return self._integrated(points, momenta)
        # Compared by value: an optimiser, or whoever shares the memory, may have changed them in place.
        kept = self._kept
        if kept is None or not (_same(kept[0], points) and _same(kept[1], momenta)):
            before = points.detach().clone(), momenta.detach().clone()
            with torch.no_grad():
                kept = (*before, self._integrated(*before))
            self._kept = kept
        return kept[2]

    def _integrated(self, points: Tensor, momenta: Tensor) -> Path:
        follow = drift if self.intervals else shoot
        return follow(
            points, momenta, self.mixed_kernel, steps=self.steps, method=self.method, memory=self.memory
        )

    def _map(self, points: Tensor) -> Tensor:
        return carry(points, self.path().to(points), memory=self.memory)

    def _jacobian(self, points: Tensor) -> Tensor:
        return self._map_and_jacobian(points)[1]

    def _map_and_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return carry_with_jacobian(points, self.path().to(points), memory=self.memory)


class InverseFlow(InverseDeformation):
    """The inverse of a :class:`Diffeomorphism`: the map ``y -> x`` with ``phi(x) = y``.

    Points are carried backwards along the stored path. That leaves the error of the integrator, which is known
    by carrying the result forward again: the targets are shifted against it until ``|phi(x) - y|`` is within
    the tolerance (once is usual, since each time squares the error). Newton steps take over should that fail.

    Parameters
    ----------
    original : Diffeomorphism
    tolerance, max_iterations, on_failure
        See :class:`~otreg.deformations.InverseDeformation`.

    Notes
    -----
    Differentiable once, by the implicit function theorem.
    """

    original: Diffeomorphism

    def __init__(
        self,
        original: Diffeomorphism,
        *,
        tolerance: float,
        max_iterations: int = 50,
        on_failure: str = "raise",
    ) -> None:
        super().__init__(original, tolerance=tolerance, max_iterations=max_iterations, on_failure=on_failure)

    def __repr__(self) -> str:
        return f"InverseFlow({self.original!r})"

    def _start(self, target: Tensor) -> tuple[Tensor, Tensor]:
        path = self.original.path().to(target)
        aim = target.clone()
        x = carry(aim, path, backward=True)
        error = carry(x, path) - target
        residual = error.norm(dim=1)
        # At first all: a map corrected here and not there would have jumps of the size of the tolerance.
        active = torch.nonzero(residual > 0.0).squeeze(1)
        for _ in range(min(_MOST_CORRECTIONS, self.max_iterations)):
            if not len(active):
                break
            # carry backward ∘ forward is nearly the identity: shifting the aim by the error cancels it
            aim[active] -= error[active]
            trial = carry(aim[active], path, backward=True)
            missed = carry(trial, path) - target[active]
            left = missed.norm(dim=1)
            better = left < residual[active]
            active, trial, missed, left = active[better], trial[better], missed[better], left[better]
            x[active], error[active], residual[active] = trial, missed, left
            active = active[left > self._tolerances(target[active])]
        return x, residual

    def _map(self, points: Tensor) -> Tensor:
        target = points.detach()
        with torch.no_grad():
            x, residual = self._solutions(target)
            x = torch.where(torch.isfinite(target).all(dim=1, keepdim=True), x, target)
        failed = torch.isfinite(target).all(dim=1) & ~(residual <= self._tolerances(target))
        if self.on_failure == "raise" and bool(failed.any()):
            steps = self.original.steps
            raise NotInvertibleError(
                f"{complaint(target, self._solve(target)[0], failed)}; a flow folds only where its steps are too "
                f"long: take more than {steps} step{'s' * (steps > 1)}"
            )
        if torch.is_grad_enabled() and (
            points.requires_grad or any(leaf.requires_grad for leaf in self.parameters().values())
        ):
            with torch.no_grad():
                back = inverse_matrices(self.original._jacobian(x))
            # A Newton step that changes nothing, but has the derivative of the implicit function.
            x = x - torch.einsum("nij,nj->ni", back, self.original._map(x) - points)
        return torch.where(failed[:, None], torch.nan, x) if bool(failed.any()) else x


def _same(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and torch.equal(one, other.detach())


def _depth(values: Any) -> int:
    depth = 0
    while isinstance(values, Sequence) and not isinstance(values, str) and len(values):
        values, depth = values[0], depth + 1
    return depth + getattr(values, "ndim", 0)
