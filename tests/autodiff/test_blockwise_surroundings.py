"""blockwise where gradients are off, under torch.func, autocast and dropout; where its result is kept; its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from otreg.autodiff import blockwise, scan
from otreg.errors import InputError
from tests.autodiff.memory import peaks


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(x: Tensor, y: Tensor) -> Tensor:
    return torch.exp(-0.3 * (x[:, None] - y[None]).square().sum(dim=2))


def slope(value: Tensor, x: Tensor) -> Tensor:
    cotangent = torch.cos(torch.arange(value.numel())).view(value.shape).to(value)
    return torch.autograd.grad(value, x, cotangent, retain_graph=True)[0]


class TestOut:
    @pytest.mark.parametrize("other", [None, numbers(5, 2, seed=1)])
    def test_a_file(self, tmp_path: Path, other: Tensor | None) -> None:
        x, path = numbers(7, 2).requires_grad_(), tmp_path / "kernel.npy"
        expected = kernel(x, x if other is None else other)
        for name in (path, str(path)):  # the second time over the first
            found = blockwise(kernel, x, other, block=3, out=name)
            assert torch.allclose(found, expected, rtol=1e-14)
            assert torch.allclose(slope(found, x), slope(expected, x), rtol=1e-12)
            assert np.array_equal(np.load(path, mmap_mode="r"), found.detach().numpy())
        assert [file.name for file in tmp_path.iterdir()] == ["kernel.npy"]

    def test_a_file_that_does_not_become_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "kernel.npy"
        path.write_bytes(b"older")
        names: list[list[str]] = []

        def fails(x: Tensor, y: Tensor) -> Tensor:
            names.append(sorted(file.name for file in tmp_path.iterdir()))
            if len(names) == 4:
                raise ZeroDivisionError
            return kernel(x, y)

        with pytest.raises(ZeroDivisionError):
            blockwise(fails, numbers(6, 2), block=2, out=path)
        assert len(names[-1]) == 2  # it was on its way
        assert path.read_bytes() == b"older" and len(list(tmp_path.iterdir())) == 1

    def test_an_empty_file(self, tmp_path: Path) -> None:
        found = blockwise(kernel, numbers(0, 2), numbers(3, 2), out=tmp_path / "k.npy")
        assert found.shape == (0, 3) and np.load(tmp_path / "k.npy").shape == (0, 3)

    def test_what_is_given(self, tmp_path: Path) -> None:
        x = numbers(7, 2).requires_grad_()
        expected = kernel(x, x)
        mapped = np.lib.format.open_memmap(tmp_path / "k.npy", mode="w+", dtype="f8", shape=(7, 7))
        for out in (
            mapped,
            torch.zeros(7, 7).double(),
            np.zeros((7, 7)),
            torch.zeros(7, 14).double()[:, ::2],
        ):
            found = blockwise(kernel, x, block=3, out=out)
            assert np.allclose(np.asarray(out), expected.detach(), rtol=1e-14)
            assert torch.allclose(slope(found, x), slope(expected, x), rtol=1e-12)
            assert not isinstance(out, Tensor) or not out.requires_grad

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            (torch.zeros(3, 3), "out must have the shape"),
            (torch.zeros(4, 4), "float64 of the result"),
            (torch.zeros(4, 4).double().requires_grad_(), "must not require gradients"),
            (np.broadcast_to(0.0, (4, 4)), "writeable"),
            (np.zeros((4, 4), dtype="U1"), "that torch can share"),
            ("kernel.dat", "ends in .npy"),
            ("no/such/folder/k.npy", "a folder that exists"),
        ],
    )
    def test_what_does_not_fit(self, out: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            blockwise(kernel, numbers(4, 2), out=out)

    def test_bfloat16_has_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be kept in a file"):
            blockwise(lambda a, b: kernel(a, b).bfloat16(), numbers(4, 2), out=tmp_path / "k.npy")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("out", ["cpu", torch.device("cpu")])
    def test_a_device(self, out: Any) -> None:
        x = numbers(7, 2).requires_grad_()
        assert torch.allclose(blockwise(kernel, x, block=3, out=out), kernel(x, x), rtol=1e-14)
        assert blockwise(kernel, x, out=out, sum_over="all").device.type == "cpu"


class TestRandomNumbers:
    def test_dropout_agrees_and_the_global_state_is_left(self) -> None:
        x, own = numbers(6, 2).requires_grad_(), torch.Generator()
        masks: list[Tensor] = []

        def fn(a: Tensor, b: Tensor) -> Tensor:
            mask = torch.rand(len(a), len(b)) * torch.rand(len(a), len(b), generator=own)
            masks.append(mask)
            return mask * kernel(a, b)

        value = blockwise(fn, x, x, block=3, generators=[own])
        whole = torch.cat([torch.cat(masks[:2], dim=1), torch.cat(masks[2:], dim=1)])
        before = torch.get_rng_state(), own.get_state()
        assert torch.allclose(slope(value, x), slope(whole * kernel(x, x), x), rtol=1e-12)
        assert len(masks) == 8
        assert torch.equal(torch.get_rng_state(), before[0]) and torch.equal(own.get_state(), before[1])


class TestTransforms:
    @pytest.mark.parametrize("sum_over", [None, "rows", "columns", "all"])
    @pytest.mark.parametrize("symmetric", [False, True])
    def test_derivatives_of_torch_func(self, sum_over: Any, symmetric: bool) -> None:
        x, y = numbers(5, 2), numbers(5, 2, seed=1)
        axes = {None: (), "rows": 0, "columns": 1, "all": (0, 1)}[sum_over]

        def tiled(x: Tensor) -> Tensor:
            return blockwise(kernel, x, None if symmetric else y, block=2, sum_over=sum_over)

        def plain(x: Tensor) -> Tensor:
            whole = kernel(x, x if symmetric else y)
            return whole if sum_over is None else whole.sum(dim=axes)

        expected = torch.autograd.functional.jacobian(plain, x)
        for transform in (torch.func.jacrev, torch.func.jacfwd):
            assert torch.allclose(transform(tiled)(x), expected, atol=1e-14)
        many = numbers(3, 5, 2)
        assert torch.allclose(
            torch.func.vmap(tiled)(many), torch.stack([plain(one) for one in many]), atol=1e-14
        )
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, y)
            tangent = torch.autograd.forward_ad.unpack_dual(tiled(dual)).tangent
        assert torch.allclose(tangent, (expected * y).sum(dim=(-1, -2)), atol=1e-13)

    def test_out_is_refused(self) -> None:
        with pytest.raises(InputError, match="out cannot be used under torch"):
            torch.func.grad(lambda x: blockwise(kernel, x, out="cpu").sum())(numbers(4, 2))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_off(mode: Any) -> None:
    x, grad = numbers(5, 2).requires_grad_(), []
    with mode():
        found = blockwise(lambda a, b: (grad.append(torch.is_grad_enabled()), kernel(a, b))[1], x, block=2)
    assert not found.requires_grad and torch.allclose(found, kernel(x, x).detach()) and not any(grad)
    with torch.inference_mode():
        frozen = numbers(5, 2)
    assert torch.allclose(blockwise(kernel, frozen, block=2), kernel(x, x))


def test_nothing_requires_gradients() -> None:
    found = blockwise(kernel, numbers(5, 2), block=2)
    assert not found.requires_grad and found.grad_fn is None


def test_autocast_is_entered_again() -> None:
    linear = torch.nn.Linear(8, 8)
    x, seen = numbers(6, 8).float().requires_grad_(), []

    def fn(a: Tensor, b: Tensor) -> Tensor:
        product = linear(a) @ linear(b).T
        seen.append(product.dtype)
        return product

    with torch.autocast("cpu", dtype=torch.bfloat16):
        linear(x)  # leaves a cast of the weights, with a history, in autocast's cache
        found, expected = blockwise(fn, x, block=2), fn(x, x)
        total = blockwise(fn, x, block=2, sum_over="all")
    assert torch.equal(found, expected) and total.dtype == torch.bfloat16
    variables = [x, *linear.parameters()]
    for one, other in zip(
        torch.autograd.grad(found.float().sum(), variables),
        torch.autograd.grad(expected.float().sum(), variables),
        strict=True,
    ):
        assert one.dtype == other.dtype
        assert torch.allclose(one, other, rtol=0.03, atol=0.03 * float(other.abs().max()))
    assert set(seen) == {torch.bfloat16}
    # autocast around the backward pass alone does not reach the tiles
    found = blockwise(fn, x, block=2)
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found.sum().backward()
    assert set(seen) == {torch.float32}


def test_inside_a_loop() -> None:
    x = numbers(6, 2).requires_grad_()
    step = lambda v: blockwise(kernel, x, block=2, sum_over="columns") / (1.0 + v.square())  # noqa: E731
    found = scan(step, torch.ones(6).double(), length=5)
    wanted = torch.ones(6).double()
    for _ in range(5):
        wanted = kernel(x, x).sum(dim=1) / (1.0 + wanted.square())
    assert torch.allclose(found, wanted) and torch.allclose(slope(found, x), slope(wanted, x), rtol=1e-11)


PREPARATION = """
import tempfile
from otreg.autodiff import blockwise
def fn(x, y, weight):
    for _ in range(8):
        x = x * weight
    d = x[:, None] - y
    for _ in range(8):
        d = torch.sin(d * weight) + d
    return d
def measured(points, sum_over=None, out=None, block=256):
    x, weight = torch.linspace(0, 1, points).requires_grad_(), torch.tensor(0.3, requires_grad=True)
    if out == "plain":
        fn(x, x, weight).sum().backward()
        return
    with tempfile.TemporaryDirectory() as folder:
        name = folder + "/k.npy" if out == "file" else None
        blockwise(fn, x, x, weight, block=block, sum_over=sum_over, out=name).sum().backward()
measured(8)
"""
TILE = 256**2 * 4 / (1 << 20)  # MB
SAVED = 17  # arrays: arguments of 8 sines and of 8 products, and the differences
SLACK = 4 * TILE + 6  # gradients and temporaries of a tile


def test_memory_is_the_result_and_one_tile() -> None:
    """At two sizes: the result alone grows, and sums do not; plain autograd for comparison."""
    cases: list[tuple[object, ...]] = [(512, None, "plain"), (512,), (2048,), (512, "all"), (1536, "all")]
    plain, *whole, small, large = peaks(PREPARATION, [*cases])
    graph = SAVED * TILE + SLACK
    assert plain > SAVED * 4 * TILE
    for megabytes, size in zip(whole, (1.0, 16.0), strict=True):
        assert megabytes < size + graph
    assert small < graph and large < graph + 1


def test_points_of_no_gradient_cost_nothing() -> None:
    """Without gradients a tile keeps no graph."""
    preparation = PREPARATION + "\ndef measured(points):\n    x = torch.linspace(0, 1, points)\n"
    preparation += "    blockwise(fn, x, x, torch.tensor(0.3), block=1024, sum_over='all')\nmeasured(8)\n"
    for megabytes in peaks(preparation, [(2048,), (4096,)]):
        assert megabytes < 6 * 4.0 + 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu() -> None:
    """Points and result on the host, tiles on the GPU; and everything on the GPU."""
    x = numbers(600, 3).requires_grad_()
    expected = kernel(x, x)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = blockwise(kernel, x, block=64, device="cuda", out="cpu")
    gradient = slope(found, x)
    assert torch.cuda.max_memory_allocated() - before < 600 * 600 * 8
    assert found.device.type == "cpu" and torch.allclose(found, expected, rtol=1e-12)
    assert torch.allclose(gradient, slope(expected, x), rtol=1e-10)
    there = x.detach().cuda().requires_grad_()
    assert torch.allclose(slope(blockwise(kernel, there, block=64), there).cpu(), gradient, rtol=1e-10)
