"""Each engine passes the same contract."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from otreg.errors import InputError
from otreg.reductions import compiled, fused, kernel_sum, softmin
from otreg.reductions.engines import choose
from tests.reductions.contract import EngineContract, KeopsContract, cloud


class TestBlocks(EngineContract):
    engine = "blocks"


class TestFused(EngineContract):
    engine = "fused"

    def test_elsewhere_it_says_what_to_do(self) -> None:
        with pytest.raises(InputError, match="CPUs and CUDA only"):
            choose("fused", "mps")


class TestAttention(EngineContract):
    """The fused engine where our library could not be built."""

    engine = "fused"

    @pytest.fixture(autouse=True)
    def without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiled, "is_available", lambda: False)

    def test_falls_back_where_the_operator_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = cloud(20, 3, torch.float64, 1), cloud(30, 3, torch.float64, 2)
        with_it = softmin(x, y, blur=0.3, values=y)
        monkeypatch.setattr(fused, "is_available", lambda device_type: False)
        without = softmin(x, y, blur=0.3, values=y)
        assert torch.allclose(with_it.value, without.value) and torch.allclose(with_it.mean, without.mean)
        plain = fused.attention(x[None], y[None], y[None])
        scores = x @ y.T
        assert torch.allclose(plain[0][0], scores.logsumexp(dim=1))
        assert plain[1] is not None and torch.allclose(plain[1][0], scores.softmax(dim=1) @ y)

    def test_a_wrong_operator_is_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        true_attend = fused._attend
        monkeypatch.setattr(
            fused, "_attend", lambda q, k, v: tuple(part * 1.01 for part in true_attend(q, k, v))
        )
        fused.is_available.cache_clear()
        try:
            assert not fused.is_available("cpu")
        finally:
            monkeypatch.undo()
            fused.is_available.cache_clear()
        assert fused.is_available("cpu")


class TestKeops(KeopsContract):
    def test_nothing_reaches_stdout(self) -> None:
        code = (
            "import torch; from otreg.reductions import softmin\n"
            "x = torch.rand(5, 3, dtype=torch.float64); softmin(x, x, blur=1.0, engine='keops')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == ""


def test_a_missing_pykeops_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pykeops", None)
    with pytest.raises(InputError, match="pip install pykeops"):
        choose("keops", "cpu")


def test_unknown_engine() -> None:
    with pytest.raises(InputError, match="unknown engine 'magic'"):
        softmin(torch.zeros(1, 1), torch.zeros(1, 1), blur=1.0, engine="magic")


def test_numpy_in_numpy_out() -> None:
    import numpy as np

    x = np.random.default_rng(0).random((4, 3))
    value, mean = softmin(x, x, blur=0.3, values=x[:, 0])
    assert isinstance(value, np.ndarray) and mean.shape == (4,)
    assert isinstance(
        kernel_sum(x.astype(np.float32), x.astype(np.float32), x[:, 0].astype(np.float32)), np.ndarray
    )


def test_pure_gibbs_sums_keep_their_dtype() -> None:
    x = torch.rand(5, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(kernel_sum(x, x, x).sum(), x)
    assert grad.dtype == torch.float32
