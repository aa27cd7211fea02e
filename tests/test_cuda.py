"""Everything that takes tensors, on a CUDA GPU: the same as on a CPU.

No test needs vtk, so that this file runs where only torch, NumPy, SciPy and h5py are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import otreg
from otreg import autodiff, flows, kernels, transport
from otreg.attachments import Varifold
from otreg.deformations import (
    Affine,
    Composite,
    Deformation,
    Diffeomorphism,
    InverseDeformation,
    Spline,
    itk_transform,
    split_pose,
    trajectory,
)
from otreg.flows.along import positions_along
from otreg.reductions import KERNELS, kernel_sum, softmin, softmin_pair
from otreg.reductions.mixed import MixedKernel
from tests.attachments.cases import CASES as ATTACHMENTS
from tests.attachments.cases import organ
from tests.deformations.cases import CASES as DEFORMATIONS
from tests.deformations.cases import points as places
from tests.kernels.cases import CASES as KERNEL_CASES
from tests.kernels.cases import Case
from tests.transport.support import bent_sphere, uniform

DEVICE = "cuda"
DEVICES = ("cpu", DEVICE)

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.usefixtures("settings_of_the_caller_stay"),
]


def on(device: str, *tensors: Tensor) -> list[Tensor]:
    """Copies of tensors on a device, as leaves that want gradients where they are floating."""
    return [
        tensor.detach().to(device, copy=True).requires_grad_(tensor.is_floating_point()) for tensor in tensors
    ]


def same(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-9) -> None:
    """Both lie where they should, and agree relative to the largest entry."""
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.device.type == DEVICE and other.device.type == "cpu", place
        assert one.dtype == other.dtype and one.shape == other.shape, place
        off = float((one.detach().cpu() - other.detach()).abs().max()) if one.numel() else 0.0
        assert off <= tolerance * max(float(other.detach().abs().max()), 1e-300), (place, off)


# Transport ------------------------------------------------------------------------------------------------

PROBLEMS: dict[str, dict[str, Any]] = {
    "balanced": {},
    "unbalanced": {"reach": 0.5},
    "one side imposed": {"reach_x": 0.5},
    "debiased": {"debias": True},
    "debiased, unbalanced": {"debias": True, "reach": 0.5},
    "features": {"x_features": uniform(40, 2, 5), "y_features": uniform(50, 2, 6), "feature_weight": 0.3},
}


def all_of_a_solve(device: str, settings: dict[str, Any]) -> list[Tensor]:
    """Value, what the plan gives, first derivatives in everything, second ones in the points."""
    x, y, a, b = on(
        device, uniform(40, 3, 1), uniform(50, 3, 2), uniform(40, 1, 3)[:, 0], uniform(50, 1, 4)[:, 0]
    )
    moved = {
        name: given.to(device) if isinstance(given, Tensor) else given for name, given in settings.items()
    }
    found = transport.solve(x, y, a / a.sum(), b / b.sum(), blur=0.2, tol=1e-11, max_iterations=5000, **moved)
    first = torch.autograd.grad(found.value, (x, y, a, b), create_graph=True)
    along = sum((slope * slope.detach().cos()).sum() for slope in first[:2])
    second = torch.autograd.grad(along, (x, y), retain_graph=True)
    (third,) = torch.autograd.grad(found.barycentric_map().square().sum(), x)
    values = uniform(50, 2, 7).to(device)
    return [
        found.value, *found.potentials, found.confidence, found.confidence_y, found.apply(values),
        found.apply_transpose(x.detach()), found.plan(), *first, *second, third,
    ]  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_solve_and_its_derivatives(name: str) -> None:
    expected, found = (all_of_a_solve(device, PROBLEMS[name]) for device in DEVICES)
    same(found[:8], expected[:8], 1e-7)
    same(found[8:], expected[8:], 1e-5)


@pytest.mark.parametrize("settings", [{}, {"reach": 0.1}, {"debias": True}], ids=str)
@pytest.mark.parametrize("counts", [(3000, 2500), (9000, 7000)], ids=str)
def test_a_large_solve_in_single_precision(settings: dict[str, Any], counts: tuple[int, int]) -> None:
    """Through clusters, with thousands of points in several blocks."""
    clouds = [bent_sphere(counts[0], 1, torch.float32), bent_sphere(counts[1], 2, torch.float32) + 0.02]

    def solved(device: str, dtype: torch.dtype, tol: float) -> tuple[Tensor, Tensor, Tensor]:
        x, y = on(device, *(cloud.to(dtype) for cloud in clouds))
        found = transport.solve(x, y, blur=0.03, tol=tol, **settings)
        assert found.converged
        (slope,) = torch.autograd.grad(found.value, x)
        return tuple(part.detach().double() for part in (found.value, slope, found.barycentric_map()))

    truth = solved("cpu", torch.float64, 1e-6)
    for device in DEVICES:
        found = solved(device, torch.float32, 1e-4)
        for place, (one, other) in enumerate(zip(found, truth, strict=True)):
            off = float((one.cpu() - other).abs().max() / other.abs().max())
            assert off < 2e-2, (device, place, off)


def test_a_huge_solve_leaves_out_what_does_not_matter() -> None:
    """So many pairs that the fused engine looks for those of no consequence; plain torch sums all of them."""
    results = []
    for engine in ("blocks", "fused"):
        x, y = on(DEVICE, bent_sphere(20000, 1, torch.float32), bent_sphere(16000, 2, torch.float32))
        found = transport.solve(x, y, blur=0.01, engine=engine)
        (slope,) = torch.autograd.grad(found.value, x)
        assert found.converged
        results.append((found.value, slope, found.barycentric_map()))
    same(results[1], [each.cpu() for each in results[0]], 2e-2)


def test_a_solve_starts_from_an_earlier_one_wherever_that_was() -> None:
    clouds = uniform(40, 3, 1), uniform(50, 3, 2)
    x, y = (cloud.to(DEVICE) for cloud in clouds)
    options: dict[str, Any] = {"blur": 0.1, "tol": 1e-9, "debias": True}
    cold, there = transport.solve(x, y, **options), transport.solve(*clouds, **options)
    for init in (cold, there, cold.potentials, tuple(each.cpu().numpy() for each in cold.potentials)):
        warm = transport.solve(x, y, init=init, **options)
        assert warm.iterations <= 3 < cold.iterations
        same([warm.value], [there.value], 1e-7)
    back = transport.solve(*clouds, init=cold, **options)
    assert back.iterations <= 3 and back.value.device.type == "cpu"


def test_a_divergence_with_a_memory_moves_between_devices() -> None:
    divergence = transport.SinkhornDivergence(0.2, tol=1e-9)
    clouds = uniform(40, 3, 1), uniform(50, 3, 2)
    values = [
        divergence(*(cloud.to(device) for cloud in clouds)) for device in (DEVICE, DEVICE, "cpu", DEVICE)
    ]
    assert [value.device.type for value in values] == [DEVICE, DEVICE, "cpu", DEVICE]
    for value in values:
        assert float(value) == pytest.approx(float(values[2]), rel=1e-6)


# Kernels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_kernel_sums(kernel: str, dtype: torch.dtype, tolerance: float) -> None:
    results = []
    for device in DEVICES:
        x, y, v = on(
            device, *(uniform(count, 3, count, dtype) for count in (2000, 1700)), uniform(1700, 3, 3, dtype)
        )
        total = kernel_sum(x, y, v, kernel, 0.3)
        results.append((total, *torch.autograd.grad(total.square().mean(), (x, y, v))))
    same(results[1], results[0], tolerance)


def test_softmins() -> None:
    results = []
    for device in DEVICES:
        x, y, f, g = on(device, *(uniform(count, 3, count) for count in (700, 900)), *(
            0.1 * uniform(count, 1, count)[:, 0] for count in (700, 900)
        ))  # fmt: skip
        value, mean = softmin(x, y, g, blur=0.2, values=y)
        slopes = torch.autograd.grad(value.sum() + mean.square().sum(), (x, y, g))
        results.append((value, mean, *slopes, *softmin_pair(x, y, f, g, blur=0.2)))
    same(results[1], results[0])


@pytest.mark.parametrize("case", KERNEL_CASES, ids=lambda case: case.name)
def test_kernels_and_their_systems(case: Case) -> None:
    """Numbers of a kernel may stay on the CPU, or lie beside the points."""
    for beside in (False, True):
        results = []
        for device in DEVICES:
            x, y, v = on(device, *case.clouds(40, 30))
            numbers = on(device if beside else "cpu", *case.tensors())
            kernel = case.build(*numbers)
            total = kernel.sum(x, y, v)
            slopes = torch.autograd.grad(total.square().sum(), (x, y, v, *numbers))
            solution = kernels.KernelSystem(kernel, y, 0.3).solve(v)
            back = torch.autograd.grad(solution.square().sum(), (y, v, *numbers))
            parts = (total, *slopes[:3], kernel.matrix(x, y), solution, *back[:2])
            results.append((*parts, *(slope.to(device) for slope in (*slopes[3:], *back[2:]))))
        same(results[1], results[0], 1e-6)


def test_compact_kernels_that_search_for_near_pairs() -> None:
    kernel = MixedKernel("wendland", (0.12, 0.06))
    for centres in (600, 6000):
        results = []
        for device in DEVICES:
            x, z, v = on(device, uniform(3000, 3, 1), uniform(centres, 3, 2), uniform(centres, 3, 3))
            total, slopes = kernel.sums(x, z, (0, v), (1, v))
            wanted = torch.autograd.grad(total.square().sum() + 1e-6 * slopes.square().sum(), (x, z, v))
            results.append((total, slopes, *wanted))
        same(results[1], results[0])


# Attachments ----------------------------------------------------------------------------------------------


def value_and_slope(attachment: Any, mesh: tuple[Tensor, Tensor], device: str) -> tuple[Tensor, Tensor]:
    points, triangles = on(device, *mesh)
    value = attachment(points, triangles)
    return value, torch.autograd.grad(value, points)[0]


@pytest.mark.parametrize("name", [*ATTACHMENTS, "merged"])
def test_attachments(name: str) -> None:
    """One attachment serves both devices, wherever its fixed shape was given."""
    build = (
        (lambda fixed: Varifold(fixed, 6.0, resolution=2.0)) if name == "merged" else ATTACHMENTS[name].build
    )
    fixed, moving = organ(3, 0), organ(3, 1)
    for home in DEVICES:
        attachment = build(tuple(part.to(home) for part in fixed))
        expected = value_and_slope(attachment, moving, "cpu")
        # of points that lie alike, a GPU may merge others
        same(value_and_slope(attachment, moving, DEVICE), expected, 1e-2 if name == "merged" else 1e-7)
        single = value_and_slope(attachment, (moving[0].float(), moving[1]), DEVICE)
        assert single[0].dtype == torch.float32
        assert single[0].item() == pytest.approx(expected[0].item(), rel=1e-3, abs=1e-4)


# Flows and deformations -----------------------------------------------------------------------------------


GAUSSIAN, WENDLAND = MixedKernel("gaussian", (0.6, 0.3)), MixedKernel("wendland", 1.5)


@pytest.mark.parametrize(
    ("kernel", "memory"),
    [
        (GAUSSIAN, "sqrt"),
        (GAUSSIAN, "all"),
        (GAUSSIAN, 3),
        (GAUSSIAN, autodiff.Snapshots(3)),
        (WENDLAND, "sqrt"),
    ],
    ids=["sqrt", "all", "3", "snapshots", "wendland"],
)
def test_shooting_with_checkpoints(kernel: MixedKernel, memory: Any) -> None:
    results = []
    for device in DEVICES:
        q, p, x = on(device, uniform(30, 3, 1), 0.1 * uniform(30, 3, 2), uniform(200, 3, 3))
        path = flows.shoot(q, p, kernel, steps=4, memory=memory)
        there, jacobian = flows.carry_with_jacobian(x, path, memory=memory)
        back = flows.carry(there, path, backward=True, memory=memory)
        between = positions_along(x, path, [0.0, 0.33, 1.0], memory=memory)
        loss = there.square().sum() + jacobian.square().sum() + back.sum() + between.sin().sum()
        results.append((there, jacobian, back, path.times, *torch.autograd.grad(loss, (q, p, x))))
    same(results[1], results[0])


def test_steps_that_choose_their_length() -> None:
    results = []
    for device in DEVICES:
        x, rate = on(device, uniform(20, 3, 1), torch.tensor(1.3, dtype=torch.float64))
        end = flows.integrate_adaptive(lambda time, state, rate=rate: rate * state.sin() + time, x)
        results.append((end, *torch.autograd.grad(end.square().sum(), (x, rate))))
    same(results[1], results[0])


def parameters_there(transform: Deformation) -> Deformation:
    """The same map with its parameters on the GPU."""
    given = [tensor.detach().to(DEVICE) for tensor in transform.parameters().values()]
    if isinstance(transform, Affine):
        return Affine(*given, transform.kind)
    if isinstance(transform, Spline):
        return Spline(*given, transform.widths, transform.kernel, transform.amplitudes)
    if isinstance(transform, Diffeomorphism):
        how = (transform.widths, transform.kernel, transform.amplitudes, transform.steps, transform.method)
        return Diffeomorphism(*given, *how)
    if isinstance(transform, Composite):
        return Composite([parameters_there(stage) for stage in transform.stages])
    assert isinstance(transform, InverseDeformation)
    return parameters_there(transform.original).inverse


def all_of_a_map(transform: Deformation, device: str) -> list[Tensor]:
    (x,) = on(device, torch.from_numpy(places()))
    leaves = [leaf.requires_grad_() for leaf in transform.parameters().values()]
    y = transform.map(x)
    slopes = torch.autograd.grad(y.sin().sum(), (x, *leaves))
    with torch.no_grad():
        return [
            y, transform.jacobian(x), transform.jacobian_determinant(x), *transform.map_with_jacobian(x),
            transform.inverse.map(y.detach()), trajectory(transform, x, [0.0, 0.4, 0.8, 1.0]),
            *(slope.to(device) for slope in slopes),
        ]  # fmt: skip


@pytest.mark.parametrize("name", DEFORMATIONS)
def test_deformations(name: str, tmp_path: Path) -> None:
    """Parameters on the CPU or beside the points; files that any machine reads."""
    expected = all_of_a_map(DEFORMATIONS[name](), "cpu")
    there = parameters_there(DEFORMATIONS[name]())
    for transform in (DEFORMATIONS[name](), there):
        same(all_of_a_map(transform, DEVICE), expected, 1e-7)
    there.save(tmp_path / "there.h5")
    again = otreg.load_transform(tmp_path / "there.h5")
    assert all(tensor.device.type == "cpu" for tensor in again.parameters().values())
    for transform in (again, there):
        images = transform.map(places())
        assert isinstance(images, np.ndarray)
        assert np.allclose(images, expected[0].detach().numpy(), atol=1e-9)
    single = there.map(torch.from_numpy(places()).float().to(DEVICE))
    assert single.dtype == torch.float32 and single.device.type == DEVICE


def test_affine_maps_are_fitted_and_put_together() -> None:
    x, y = uniform(30, 3, 1), uniform(30, 3, 2)
    for kind in ("rigid", "similarity", "affine"):
        found, expected = (Affine.fit(x.to(device), y.to(device), kind=kind) for device in reversed(DEVICES))
        for one, other in ((found, expected), (found.inverse, expected.inverse)):
            same(list(one.parameters().values()), list(other.parameters().values()))
        both = Composite([Affine.identity(), found, found.inverse]).simplified()
        assert np.allclose(both.map(x.numpy()), x.numpy())
        pose, rest = split_pose(Composite([Affine.identity(), found, DEFORMATIONS["gaussian"]()]))
        assert pose is not None and rest is not None
        assert np.allclose(itk_transform(found).map(x.numpy()), expected.map(x.numpy()))


# Solvers and loops that stand on their own ----------------------------------------------------------------


def test_solvers_and_loops() -> None:
    results = []
    for device in DEVICES:
        root, b, y = on(device, uniform(12, 12, 1), uniform(12, 1, 2)[:, 0], uniform(9, 1, 3)[:, 0])
        system = root @ root.T + torch.eye(12, dtype=root.dtype, device=device)
        solution = autodiff.conjugate_gradient(system, b)
        rows = root[:9] * 1.0
        near = autodiff.proximal_least_squares(lambda v: rows @ v, lambda v: rows.T @ v, y, b, 2.0, (rows,))  # noqa: B023
        pairs = autodiff.blockwise(lambda u, v: (u[:, None] - v[None]).square().sum(2).exp(), root, block=5)
        last = autodiff.scan(lambda state: (root @ state).sin(), b, length=9, offload="cpu")  # noqa: B023
        h, penalty = autodiff.eager_penalty(root.sin(), lambda part: (part * b).square().sum(1), 0.5)  # noqa: B023
        loss = solution.sum() + near.square().sum() + pairs.sum() + last.sum() + h.sum() + penalty.sum()
        results.append((solution, near, pairs, last, penalty, *torch.autograd.grad(loss, (root, b, y))))
    same(results[1], results[0], 1e-7)
