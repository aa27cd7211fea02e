"""Geodesic shooting: flows of diffeomorphisms that a few control points and their momenta generate.

Control points q and momenta p span the velocity ``v(x) = Σ_j K(|x - q_j|) p_j``. On a geodesic they follow the
Hamiltonian ``H = ½ Σ_ij K(|q_i - q_j|) p_i·p_j`` (Miller, Trouvé & Younes 2006, J. Math. Imaging Vis. 24,
section 5; Durrleman et al. 2014, NeuroImage 101, equation 4). With K a function of the squared distance and K'
its derivative:

    q̇_i = ∂H/∂p_i  = Σ_j K p_j
    ṗ_i = -∂H/∂q_i = -2 Σ_j K' (p_i·p_j) (q_i - q_j)

Both come from one pass over the pairs, with the channels p and ``p qᵀ``. Any other point x is a passenger,
``ẋ = v(t, x)``, and so is the Jacobian of its journey, ``J̇ = Dv(t, x) J`` with ``Dv = 2 Σ_j K' p_j (x - q_j)ᵀ``.

The path is integrated first, with steps half as long as those of the passengers, so that a passenger finds the
velocity stored wherever its integrator asks: the same stored velocities whether it goes forward or backward.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from otreg.errors import InputError
from otreg.flows.fixed import integrate
from otreg.reductions.mixed import MixedKernel


@dataclasses.dataclass(frozen=True)
class Path:
    """Control points and momenta along a flow, from time 0 to time 1.

    Attributes
    ----------
    control_points : Tensor, shape (2 S + 1, C, 3)
        q at equal times, S being the number of passengers' steps; every other time is the middle of a step.
    momenta : Tensor, shape (2 S + 1, C, 3) or (T, C, 3)
        p at these times on a geodesic; or, if ``intervals`` is T > 0, the one of each interval.
    kernel : MixedKernel
        K.
    intervals : int
        0 on a geodesic; else the number of equal intervals of time in which the momenta are constant.
    method : {"euler", "midpoint", "rk4"}
        How the path was integrated and passengers are.
    """

    control_points: Tensor
    momenta: Tensor
    kernel: MixedKernel
    intervals: int
    method: str

    @property
    def steps(self) -> int:
        """Number of steps S that passengers take."""
        return len(self.control_points) // 2

    @property
    def times(self) -> Tensor:
        """The times of the control points, (2 S + 1,), from 0 to 1."""
        count, device = len(self.control_points), self.control_points.device
        return torch.linspace(0.0, 1.0, count, dtype=torch.float64, device=device)

    @property
    def end(self) -> tuple[Tensor, Tensor]:
        """Control points and momenta at time 1, (C, 3) each: with momenta reversed they shoot back."""
        return self.control_points[-1], self.momenta[-1]

    def at(self, index: int, interval: int) -> tuple[Tensor, Tensor]:
        """Control points and momenta at one of the times, seen from one of the intervals (0 on a geodesic)."""
        return self.control_points[index], self.momenta[interval if self.intervals else index]

    def hamiltonians(self) -> Tensor:
        """H at each of the times, (2 S + 1,): constant on a geodesic but for the error of the integrator."""
        values = []
        for index in range(len(self.control_points)):
            interval = min(index * self.intervals // (2 * self.steps), max(self.intervals - 1, 0))
            values.append(hamiltonian(*self.at(index, interval), self.kernel))
        return torch.stack(values)

    def to(self, like: Tensor) -> Path:
        """The path in the dtype and on the device of another tensor."""
        return dataclasses.replace(
            self, control_points=self.control_points.to(like), momenta=self.momenta.to(like)
        )


def hamiltonian(control_points: Tensor, momenta: Tensor, kernel: MixedKernel) -> Tensor:
    """Energy ``H = ½ Σ_ij K(|q_i - q_j|) p_i·p_j`` of momenta at control points; half the squared speed.

    Parameters
    ----------
    control_points, momenta : Tensor, shape (C, 3)
        q and p, of one dtype and device.
    kernel : MixedKernel

    Returns
    -------
    Tensor, shape ()
        Not negative. Differentiable in q and p any number of times (Wendland kernels: three).
    """
    (velocity,) = kernel.sums(control_points, control_points, (0, momenta))
    return 0.5 * (momenta * velocity).sum()


def shoot(
    control_points: Tensor,
    momenta: Tensor,
    kernel: MixedKernel,
    *,
    steps: int = 10,
    method: str = "rk4",
    memory: Any = "sqrt",
) -> Path:
    """Follow control points and momenta along the geodesic that they start.

    Parameters
    ----------
    control_points, momenta : Tensor, shape (C, 3)
        q and p at time 0, C at least 1, of one floating dtype (float64 unless you know better) and device.
    kernel : MixedKernel
        K.
    steps : int, default 10
        Steps of the passengers; the path itself takes twice as many.
    method : {"rk4", "midpoint", "euler"}
        Order 4, 2 or 1.
    memory : default "sqrt"
        What the backward pass keeps: see :func:`otreg.flows.integrate`.

    Returns
    -------
    Path
        Differentiable in the control points and the momenta.

    Raises
    ------
    InputError
        On shapes that do not match, or an unknown method or number of steps.
    """
    _check(control_points, momenta, (control_points.shape,))

    def field(time: float, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return _hamiltonian_field(*state, kernel)

    points, moments = integrate(
        field,
        (control_points, momenta),
        steps=2 * _whole(steps),
        method=method,
        memory=memory,
        trajectory=True,
    )
    return Path(points, moments, kernel, 0, method)


def drift(
    control_points: Tensor,
    momenta: Tensor,
    kernel: MixedKernel,
    *,
    steps: int = 10,
    method: str = "rk4",
    memory: Any = "sqrt",
) -> Path:
    """Carry control points by the velocity of their own momenta, which are constant in each interval of time.

    Not a geodesic unless the momenta happen to follow one: T intervals hold whatever flow they are given, also
    where shooting from time 0 would be stiff.

    Parameters
    ----------
    control_points : Tensor, shape (C, 3)
        q at time 0.
    momenta : Tensor, shape (T, C, 3)
        p in each of T equal intervals of the time from 0 to 1.
    kernel, method, memory
        See :func:`shoot`.
    steps : int, default 10
        Steps of the passengers in all. Each interval gets the same number, at least one: rounded up.

    Returns
    -------
    Path
        Differentiable in the control points and the momenta.

    Raises
    ------
    InputError
        As for :func:`shoot`.
    """
    intervals = len(momenta) if momenta.ndim == 3 else 0
    _check(control_points, momenta, ((max(intervals, 1), *control_points.shape),))
    each = -(-_whole(steps) // intervals)
    points, legs = control_points, [control_points[None]]
    for constant in momenta.unbind(0):

        def field(time: float, state: Tensor, constant: Tensor = constant) -> Tensor:
            return kernel.sums(state, state, (0, constant))[0]

        leg = integrate(
            field,
            points,
            end=1.0 / intervals,
            steps=2 * each,
            method=method,
            memory=memory,
            trajectory=True,
        )
        legs.append(leg[1:])
        points = leg[-1]
    return Path(torch.cat(legs), momenta, kernel, intervals, method)


def carry(points: Tensor, path: Path, *, backward: bool = False, memory: Any = "sqrt") -> Tensor:
    """Carry passengers along a path: the diffeomorphism at time 1, or its inverse.

    Parameters
    ----------
    points : Tensor, shape (N, 3)
        In the dtype and on the device of the path. Points that are not finite stay so.
    path : Path
    backward : bool, default False
        From time 1 to time 0, along the same stored velocities. Undoes the way forward up to the error of the
        integrator: of order 4 in the length of a step for ``rk4``.
    memory : default "sqrt"
        See :func:`otreg.flows.integrate`.

    Returns
    -------
    Tensor, shape (N, 3)
        Differentiable in the points and in the path.
    """

    def velocity(state: Tensor, centres: Tensor, momenta: Tensor) -> Tensor:
        return path.kernel.sums(state, centres, (0, momenta))[0]

    return _carried(points, path, velocity, backward, memory)


def carry_with_jacobian(
    points: Tensor, path: Path, *, backward: bool = False, memory: Any = "sqrt"
) -> tuple[Tensor, Tensor]:
    """Carry passengers and the derivative of their journey.

    Parameters
    ----------
    points, path, backward, memory
        See :func:`carry`.

    Returns
    -------
    points : Tensor, shape (N, 3)
        As :func:`carry` gives them.
    jacobian : Tensor, shape (N, 3, 3)
        ``d x_i(end) / d x_j(start)``: the very derivative of the discrete flow, since a Runge-Kutta step of
        ``J̇ = Dv J`` is the derivative of the step of ``ẋ = v``.
    """

    def velocity(state: tuple[Tensor, Tensor], centres: Tensor, momenta: Tensor) -> tuple[Tensor, Tensor]:
        here, jacobian = state
        speed, slope = _velocity_and_slope(here, centres, momenta, path.kernel)
        return speed, slope @ jacobian

    identity = torch.eye(3, dtype=points.dtype, device=points.device).expand(len(points), 3, 3)
    found: tuple[Tensor, Tensor] = _carried((points, identity), path, velocity, backward, memory)
    return found


def _carried(state: Any, path: Path, velocity: Any, backward: bool, memory: Any) -> Any:
    """Integrate ``state`` in the stored velocities, interval after interval."""
    parts = max(path.intervals, 1)
    each = path.steps // parts
    for interval in reversed(range(parts)) if backward else range(parts):
        first, last = 2 * each * interval, 2 * each * (interval + 1)

        # Time counts half steps here: whole numbers, which are looked up.
        def field(time: float, here: Any, interval: int = interval) -> Any:
            derivative = velocity(here, *path.at(round(time), interval))
            scale = 0.5 / path.steps
            return (
                tuple(scale * part for part in derivative) if isinstance(here, tuple) else scale * derivative
            )

        start, end = (last, first) if backward else (first, last)
        state = integrate(
            field,
            state,
            start=float(start),
            end=float(end),
            steps=each,
            method=path.method,
            memory=memory,
            finite=False,
        )
    return state


def _hamiltonian_field(points: Tensor, momenta: Tensor, kernel: MixedKernel) -> tuple[Tensor, Tensor]:
    """``(q̇, ṗ)`` from one pass over the pairs."""
    centred = points - points.detach().mean(dim=0)
    channels = torch.cat([momenta, (momenta[:, :, None] * centred[:, None, :]).flatten(1)], dim=1)
    velocity, slopes = kernel.sums(points, points, (0, channels[:, :3]), (1, channels))
    along = (momenta * slopes[:, :3]).sum(dim=1, keepdim=True) * centred
    across = (momenta[:, :, None] * slopes[:, 3:].unflatten(1, (3, 3))).sum(dim=1)
    return velocity, -2.0 * (along - across)


def _velocity_and_slope(
    points: Tensor, centres: Tensor, momenta: Tensor, kernel: MixedKernel
) -> tuple[Tensor, Tensor]:
    """Velocity (N, 3) and its derivative ``d v_i / d x_j`` (N, 3, 3)."""
    middle = centres.detach().mean(dim=0)
    products = momenta[:, :, None] * (centres - middle)[:, None, :]
    channels = torch.cat([momenta, products.flatten(1)], dim=1)
    velocity, slopes = kernel.sums(points, centres, (0, channels[:, :3]), (1, channels))
    outer = slopes[:, :3, None] * (points - middle)[:, None, :]
    return velocity, 2.0 * (outer - slopes[:, 3:].unflatten(1, (3, 3)))


def _check(control_points: Tensor, momenta: Tensor, wanted: tuple[Any, ...]) -> None:
    if control_points.ndim != 2 or control_points.shape[1] != 3 or not len(control_points):
        raise InputError(f"control points must have shape (C, 3), got {tuple(control_points.shape)}")
    if tuple(momenta.shape) not in [tuple(shape) for shape in wanted]:
        raise InputError(
            f"momenta must have shape {' or '.join(str(tuple(shape)) for shape in wanted)}, "
            f"got {tuple(momenta.shape)}"
        )


def _whole(steps: int) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps must be a whole number of at least 1, got {steps!r}")
    return steps
