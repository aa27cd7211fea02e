"""Geodesic shooting: closed forms, conserved quantities, orders of convergence, derivatives, memory."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq
from torch import Tensor

from otreg import InputError
from otreg.flows import Path, carry, carry_with_jacobian, drift, hamiltonian, shoot
from otreg.reductions.mixed import MixedKernel
from tests.support import ROOT

KERNELS = {
    "gaussian": MixedKernel("gaussian", 0.9),
    "several widths": MixedKernel("gaussian", (1.4, 0.7, 0.45), (0.5, 0.3, 0.2)),
    "wendland": MixedKernel("wendland", (2.5, 1.7), (0.5, 0.5)),
}
ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4}


@pytest.fixture(params=list(KERNELS))
def kernel(request: pytest.FixtureRequest) -> MixedKernel:
    return KERNELS[request.param]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(scale * np.random.default_rng(seed).normal(size=shape))


def profile(kernel: MixedKernel, r: Tensor) -> Tensor:
    """K(r), from the definition."""
    total = torch.zeros_like(r)
    for width, amplitude in zip(kernel.widths, kernel.amplitudes, strict=True):
        s = r / width
        if kernel.kernel == "gaussian":
            total = total + amplitude * torch.exp(-s.square() / 2)
        else:
            total = total + amplitude * (1 - s).clamp_min(0) ** 6 * (35 * s.square() + 18 * s + 3) / 3
    return total


def dense_energy(q: Tensor, p: Tensor, kernel: MixedKernel) -> Tensor:
    """H from all pairs; the small number keeps the root differentiable where a point meets itself."""
    r = ((q[:, None] - q[None]).square().sum(dim=2) + 1e-20).sqrt()
    return 0.5 * (profile(kernel, r) * (p @ p.T)).sum()


def reference(q: Tensor, p: Tensor, kernel: MixedKernel, points: Tensor) -> tuple[np.ndarray, ...]:
    """Control points, momenta and passengers at time 1: Hamilton's equations by autograd, DOP853 at 1e-12."""
    count, others = len(q), len(points)

    def right(time: float, state: np.ndarray) -> np.ndarray:
        here = torch.from_numpy(state.reshape(-1, 3))
        a, b = here[:count].clone().requires_grad_(), here[count : 2 * count].clone().requires_grad_()
        slope_q, slope_p = torch.autograd.grad(dense_energy(a, b, kernel), (a, b))
        velocity = profile(kernel, torch.cdist(here[2 * count :], here[:count])) @ here[count : 2 * count]
        return torch.cat([slope_p, -slope_q, velocity]).numpy().ravel()

    start = torch.cat([q, p, points]).numpy().ravel()
    end = solve_ivp(right, (0, 1), start, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1].reshape(-1, 3)
    return end[:count], end[count : 2 * count], end[2 * count : 2 * count + others]


def test_is_the_hamiltonian_flow(kernel: MixedKernel) -> None:
    q, p, x = normal(6, 3), normal(6, 3, seed=1, scale=0.5), normal(5, 3, seed=2)
    assert float(hamiltonian(q, p, kernel)) == pytest.approx(float(dense_energy(q, p, kernel)), rel=1e-12)
    path = shoot(q, p, kernel, steps=40)
    expected = reference(q, p, kernel, x)
    for found, wanted in zip((*path.end, carry(x, path)), expected, strict=True):
        assert np.abs(found.numpy() - wanted).max() < 1e-6
    assert torch.equal(path.control_points[0], q) and torch.equal(path.momenta[0], p)
    assert path.steps == 40 and len(path.times) == len(path.control_points) == 81


@pytest.mark.parametrize("method", list(ORDERS))
def test_order_of_convergence(method: str) -> None:
    kernel = KERNELS["several widths"]
    q, p, x = normal(6, 3), normal(6, 3, seed=1, scale=0.5), normal(5, 3, seed=2)
    wanted = reference(q, p, kernel, x)
    errors = []
    for steps in (8, 16):
        path = shoot(q, p, kernel, steps=steps, method=method)
        found = (*path.end, carry(x, path))
        errors.append([np.abs(a.numpy() - b).max() for a, b in zip(found, wanted, strict=True)])
    rates = np.log2(np.array(errors[0]) / np.array(errors[1]))
    assert (rates > ORDERS[method] - 0.35).all(), (rates, errors)


def test_conserved_quantities(kernel: MixedKernel) -> None:
    """H, the total momentum and the total angular momentum; H to the order of the method."""
    q, p = normal(12, 3), normal(12, 3, seed=1, scale=0.4)
    drifts = []
    for steps in (5, 10):
        path = shoot(q, p, kernel, steps=steps)
        energies = path.hamiltonians()
        drifts.append(float((energies - energies[0]).abs().max() / energies[0]))
        total = path.momenta.sum(dim=1)
        assert float((total - total[0]).abs().max()) < 1e-12  # linear: kept by any Runge-Kutta method
        angular = torch.linalg.cross(path.control_points, path.momenta).sum(dim=1)
        assert float((angular - angular[0]).abs().max()) < 10 * drifts[-1] + 1e-12
    # energy errs by one power more than the path where the motion is smooth, by two less for a C⁴ kernel
    assert drifts[1] < 2e-6 and drifts[1] < drifts[0] / 8, drifts


def test_shooting_back(kernel: MixedKernel) -> None:
    """From (q1, -p1) the geodesic returns to (q0, -p0), to the order of the method."""
    q, p = normal(10, 3), normal(10, 3, seed=1, scale=0.4)
    misses = []
    for steps in (6, 12):
        end, moved = shoot(q, p, kernel, steps=steps).end
        back = shoot(end, -moved, kernel, steps=steps).end
        misses.append(max(float((back[0] - q).abs().max()), float((back[1] + p).abs().max())))
    assert misses[1] < 1e-6 and misses[1] < misses[0] / 8, misses


def pair(momentum: float, difference: float, gap: float) -> tuple[Tensor, Tensor]:
    """Two points on a line in space, the first ``gap`` ahead of the second along it."""
    line = normal(3, seed=3)
    line = line / line.norm()
    middle = normal(3, seed=4)
    q = torch.stack([middle + 0.5 * gap * line, middle - 0.5 * gap * line])
    p = torch.stack([(0.5 * momentum + difference) * line, (0.5 * momentum - difference) * line])
    return q, p


def test_two_points_exchange_their_momenta() -> None:
    """A fast point catches up with a slow one and hands over its momentum, like two solitons.

    With P = p1 + p2, π = (p1 - p2)/2, r = q1 - q2 and k(0) = 1: H = P²/4 (1 + k(r)) + π² (1 - k(r)) and
    ṙ = 2 π (1 - k). So ṙ² = 4 (1 - k) (H - P²/4 (1 + k)), which is zero at the nearest approach, where π
    changes its sign. By symmetry in time, after twice the time to get there r is as at the start and the
    momenta have changed places.
    """
    width, total, gap, half = 0.7, 3.0, 2.5, -0.4

    def k(r: float) -> float:
        return float(np.exp(-(r**2) / (2 * width**2)))

    energy = total**2 / 4 * (1 + k(gap)) + half**2 * (1 - k(gap))
    nearest = brentq(lambda r: energy - total**2 / 4 * (1 + k(r)), 1e-3, gap)
    assert 0.2 < nearest < gap - 0.3  # they do meet, and do not pass

    def slowness(s: float) -> float:  # r = nearest + s² takes the singularity away
        r = nearest + s**2
        return 2 * s / np.sqrt(4 * (1 - k(r)) * (energy - total**2 / 4 * (1 + k(r))))

    duration = 2 * quad(slowness, 0, np.sqrt(gap - nearest), epsabs=1e-12, epsrel=1e-10)[0]
    q, p = pair(total, half, gap)
    # momenta times c run through the same path c times as fast: all of it in the time from 0 to 1
    path = shoot(q, p * duration, MixedKernel("gaussian", width), steps=150)
    end, moved = path.end
    assert torch.allclose(moved, p.flip(0) * duration, rtol=0, atol=1e-6)
    assert torch.allclose(end[0] - end[1], q[0] - q[1], rtol=0, atol=1e-6)
    middle = path.control_points[path.steps]
    assert float((middle[0] - middle[1]).norm()) == pytest.approx(nearest, abs=1e-7)


@pytest.mark.parametrize(("momentum", "difference"), [(0.0, -0.6), (0.7, -1.2), (-0.5, 0.8)])
def test_two_points_by_their_distance(kernel: MixedKernel, momentum: float, difference: float) -> None:
    """The reduced equations ṙ = 2π (K(0) - K(r)), π̇ = -K'(r) (P²/4 - π²), solved by SciPy."""

    def value_and_slope(r: float) -> tuple[float, float]:
        here = torch.tensor(r, dtype=torch.float64, requires_grad=True)
        value = profile(kernel, here.abs())
        return float(value.detach()), float(torch.autograd.grad(value, here)[0])

    rest = value_and_slope(0.0)[0]

    def right(time: float, state: np.ndarray) -> list[float]:
        value, slope = value_and_slope(float(state[0]))
        return [2 * state[1] * (rest - value), -slope * (momentum**2 / 4 - state[1] ** 2)]

    solved = solve_ivp(right, (0, 1), [1.1, difference], rtol=1e-11, atol=1e-12).y[:, -1]
    q, p = pair(momentum, difference, 1.1)
    end, moved = shoot(q, p, kernel, steps=40).end
    line = q[0] - q[1]
    line = line / line.norm()
    assert float((end[0] - end[1]) @ line) == pytest.approx(solved[0], abs=1e-7)
    assert float((moved[0] - moved[1]) @ line) / 2 == pytest.approx(solved[1], rel=2e-6)
    assert torch.allclose(moved.sum(dim=0), p.sum(dim=0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("follow", [shoot, drift])
def test_equal_momenta_on_a_wide_kernel_translate(follow: object) -> None:
    q, x = normal(8, 3), normal(20, 3, seed=1)
    shift = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    momenta = (shift / 8).expand(8, 3)
    path = (
        shoot(q, momenta, MixedKernel("gaussian", 1e5))
        if follow is shoot
        else drift(q, momenta.expand(3, 8, 3), MixedKernel("gaussian", 1e5))
    )
    moved, jacobian = carry_with_jacobian(x, path)
    assert torch.allclose(moved, x + shift, rtol=0, atol=1e-8)  # 1 - k is 1e-10 at most
    assert torch.allclose(path.control_points[-1], q + shift, rtol=0, atol=1e-8)
    assert torch.allclose(jacobian, torch.eye(3, dtype=torch.float64).expand(20, 3, 3), rtol=0, atol=1e-8)
    assert torch.allclose(carry(x, path, backward=True), x - shift, rtol=0, atol=1e-8)


def test_turning_everything_turns_the_flow(kernel: MixedKernel) -> None:
    q, p, x = normal(8, 3), normal(8, 3, seed=1, scale=0.3), normal(9, 3, seed=2)
    turn = torch.linalg.qr(normal(3, 3, seed=3)).Q  # a rotation or a reflection: kernels do not mind
    shift = normal(3, seed=4)
    path, turned = shoot(q, p, kernel), shoot(q @ turn.T + shift, p @ turn.T, kernel)
    moved, jacobian = carry_with_jacobian(x, path)
    again, turned_jacobian = carry_with_jacobian(x @ turn.T + shift, turned)
    assert torch.allclose(moved @ turn.T + shift, again, rtol=0, atol=1e-11)
    assert torch.allclose(turn @ jacobian @ turn.T, turned_jacobian, rtol=0, atol=1e-11)
    assert torch.allclose(path.end[1] @ turn.T, turned.end[1], rtol=0, atol=1e-11)


def test_passengers_on_control_points_stay_on_them(kernel: MixedKernel) -> None:
    q, p = normal(8, 3), normal(8, 3, seed=1, scale=0.3)
    for path in (shoot(q, p, kernel), drift(q, torch.stack([p, -p, 0.5 * p]), kernel, steps=12)):
        assert float((carry(q, path) - path.control_points[-1]).abs().max()) < 1e-6


def test_backward_undoes_forward(kernel: MixedKernel) -> None:
    """To the order of the method, and far below 0.1% of the size at ten steps."""
    q, p, x = normal(20, 3), normal(20, 3, seed=1, scale=0.3), normal(30, 3, seed=2)
    size = float((q.amax(dim=0) - q.amin(dim=0)).norm())
    misses = []
    for steps in (5, 10):
        path = shoot(q, p, kernel, steps=steps)
        moved, jacobian = carry_with_jacobian(x, path)
        back, back_jacobian = carry_with_jacobian(moved, path, backward=True)
        misses.append(float((back - x).abs().max()) / size)
        assert float((back_jacobian @ jacobian - torch.eye(3)).abs().max()) < 2e-3
    assert misses[1] < 1e-6 and misses[1] < misses[0] / 8, misses


def test_intervals_of_momenta() -> None:
    """Constant momenta drive one interval after the other; many of them, taken from a geodesic, follow it."""
    kernel = KERNELS["gaussian"]
    q, p, x = normal(6, 3), normal(6, 3, seed=1, scale=0.4), normal(7, 3, seed=2)
    twice = drift(q, torch.stack([p, -0.5 * p]), kernel, steps=8)
    first = drift(q, 0.5 * p[None], kernel, steps=4)
    second = drift(first.end[0], -0.25 * p[None], kernel, steps=4)
    assert torch.allclose(carry(x, twice), carry(carry(x, first), second), rtol=0, atol=1e-13)
    back = carry(carry(x, second, backward=True), first, backward=True)
    assert torch.allclose(carry(x, twice, backward=True), back, rtol=0, atol=1e-13)
    assert torch.equal(twice.end[1], -0.5 * p) and twice.steps == 8 and twice.intervals == 2
    assert drift(q, torch.stack([p] * 3), kernel, steps=8).steps == 9  # the same number in each interval
    energies = twice.hamiltonians()
    assert float(energies[0]) == pytest.approx(float(hamiltonian(q, p, kernel)), rel=1e-12)
    assert float(energies[-1]) == pytest.approx(float(hamiltonian(*second.end, kernel)) * 4, rel=1e-9)
    errors = []
    for intervals in (8, 16):
        geodesic = shoot(q, p, kernel, steps=intervals)
        sampled = drift(q, geodesic.momenta[1::2], kernel, steps=intervals)  # at the middle of each
        errors.append(float((carry(x, sampled) - carry(x, geodesic)).abs().max()))
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 3, errors


def test_gradients(kernel: MixedKernel) -> None:
    """Of the end of the path and of passengers and their Jacobian, by finite differences; also the second."""
    q, p = normal(2, 3).requires_grad_(), normal(2, 3, seed=1, scale=0.5).requires_grad_()
    x = normal(1, 3, seed=2).requires_grad_()

    def ends(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return shoot(q, p, kernel, steps=1).end

    def passengers(q: Tensor, p: Tensor, x: Tensor) -> Tensor:
        path = shoot(q, p, kernel, steps=2, method="midpoint")
        moved, jacobian = carry_with_jacobian(x, path)
        return torch.cat([moved, jacobian.flatten(1), carry(x, path, backward=True)], dim=1)

    assert torch.autograd.gradcheck(ends, (q, p), atol=1e-6)
    assert torch.autograd.gradcheck(passengers, (q, p, x), atol=1e-5)

    def energy_of_the_end(p: Tensor) -> Tensor:
        return carry(x.detach(), shoot(q.detach(), p, kernel, steps=1, method="euler")).square().sum()

    assert torch.autograd.gradgradcheck(energy_of_the_end, (p,), atol=1e-4)


def test_gradients_of_intervals() -> None:
    kernel = KERNELS["several widths"]
    q, p = normal(3, 3).requires_grad_(), normal(2, 3, 3, seed=1, scale=0.5).requires_grad_()
    x = normal(2, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *g: carry(g[2], drift(g[0], g[1], kernel, steps=2)), (q, p, x))


def test_memory_settings_give_the_same_gradient() -> None:
    kernel = KERNELS["several widths"]
    found = []
    for memory in ("all", "sqrt"):
        q, p = normal(6, 3).requires_grad_(), normal(6, 3, seed=1, scale=0.4).requires_grad_()
        x = normal(30, 3, seed=2).requires_grad_()
        path = shoot(q, p, kernel, steps=7, memory=memory)
        carry(x, path, memory=memory).square().sum().backward()
        found.append((q.grad, p.grad, x.grad))
    for one, other in zip(*found, strict=True):
        assert one is not None and other is not None
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-13)


def test_points_that_are_not_finite_stay_so() -> None:
    path = shoot(normal(5, 3), normal(5, 3, seed=1), KERNELS["gaussian"])
    x = normal(6, 3, seed=2)
    moved = carry(x, path)
    x[1, 2], x[4] = torch.nan, torch.inf
    again, jacobian = carry_with_jacobian(x, path)
    assert torch.allclose(again[[0, 2, 3, 5]], moved[[0, 2, 3, 5]], rtol=0, atol=1e-13)
    assert not torch.isfinite(again[[1, 4]]).all(dim=1).any()
    assert torch.isfinite(jacobian[[0, 2, 3, 5]]).all()
    assert carry(x[:0], path).shape == (0, 3)


def test_other_dtypes_and_devices() -> None:
    path: Path = shoot(normal(5, 3), normal(5, 3, seed=1, scale=0.3), KERNELS["gaussian"])
    single = path.to(torch.zeros(0, dtype=torch.float32))
    x = normal(6, 3, seed=2)
    assert carry(x.float(), single).dtype == torch.float32
    assert torch.allclose(carry(x.float(), single).double(), carry(x, path), rtol=0, atol=1e-5)


MEMORY = """
import sys
import torch
torch.set_num_threads(1)
from otreg.flows import carry, shoot
from otreg.reductions.mixed import MixedKernel
from tests.support import peak_memory
generator = torch.Generator().manual_seed(0)
q = torch.rand((40, 3), dtype=torch.float64, generator=generator)
p = (0.02 * torch.rand((40, 3), dtype=torch.float64, generator=generator)).requires_grad_()
x = torch.rand((20_000, 3), dtype=torch.float64, generator=generator)
def peak(steps):
    path = shoot(q, p, MixedKernel("gaussian", 0.3), steps=steps, method="midpoint")
    carry(x, path).square().sum().backward()
    return peak_memory()
start = peak(1)
print(peak(4) - start, peak(36) - start)
"""


def test_memory_of_the_backward_pass_grows_as_the_root_of_the_steps() -> None:
    """A stored step of 20,000 passengers is 3 MB: 36 of them would be 100 MB, and the root of 36 is 6."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the limits were set on Linux")
    # freed tensors go back to the system at once: what is measured is what is held
    exact = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, cwd=ROOT, env=exact
    )
    few, many = (float(megabytes) for megabytes in run.stdout.split())
    print(few, many)
    assert many < 40, (few, many)
    assert many < few + 30, (few, many)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, p, k: shoot(q[:, :2], p, k), r"control points must have shape \(C, 3\)"),
        (lambda q, p, k: shoot(q[:0], p[:0], k), r"control points must have shape \(C, 3\)"),
        (lambda q, p, k: shoot(q, p[1:], k), r"momenta must have shape \(4, 3\), got \(3, 3\)"),
        (lambda q, p, k: drift(q, p, k), r"momenta must have shape \(1, 4, 3\), got \(4, 3\)"),
        (lambda q, p, k: drift(q, p[None, 1:], k), r"momenta must have shape \(1, 4, 3\)"),
        (lambda q, p, k: shoot(q, p, k, steps=0), "steps must be a whole number"),
        (lambda q, p, k: shoot(q, p, k, steps=2.5), "steps must be a whole number"),
        (lambda q, p, k: drift(q, p[None], k, steps=True), "steps must be a whole number"),
        (lambda q, p, k: shoot(q, p, k, method="rk5"), "rk5"),
    ],
)
def test_bad_input_is_refused(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(normal(4, 3), normal(4, 3, seed=1), KERNELS["gaussian"])  # type: ignore[operator]
