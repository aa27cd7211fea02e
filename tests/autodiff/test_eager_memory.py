"""Peak memory of eager_penalty: one stored gradient for each penalty, and the graph of one penalty at a time."""

from __future__ import annotations

import pytest

from tests.autodiff.memory import peaks

SIZE = 1 << 18  # numbers of float32 in an activation
ACTIVATION = 1.0  # MB
LAYERS = 8
SAVED = 6  # activations that a penalty below saves, and nobody else
SLACK = 4 * ACTIVATION  # gradients and temporaries of an operation
GRAPH = 2.0

PREPARATION = """
from otreg.autodiff import eager_penalty, scan
torch.set_num_threads(1)
def penalty(h):
    total = 0.0
    for _ in range(6):
        h = torch.sin(h)
        total = total + h.square().mean()
    return total
def layer(h, kind):
    h = torch.tanh(h)
    if kind == "plain":
        return h, penalty(h)
    if kind == "eager":
        return eager_penalty(h, penalty)
    if kind == "outside":
        return eager_penalty(h, penalty, scale_gradient=1.0)
    return h, 0.0
def measured(size, layers, kind, loop=False):
    x = torch.linspace(0.1, 2.0, size).requires_grad_()
    h, total = x, 0.0
    if loop:
        h, values = scan(lambda h: layer(h, kind), x, length=layers)
        total = values.sum()
    else:
        for _ in range(layers):
            h, value = layer(h, kind)
            total = total + value
    (h.sum() + total).backward()
measured(4, 2, "eager")
measured(4, 2, "eager", True)
"""


@pytest.mark.parametrize("kind", ["eager", "outside"])
def test_memory(kind: str) -> None:
    """At two sizes, beside the plain sum and the network without any penalty."""
    for scale in (1, 3):
        none, plain, eager = peaks(
            PREPARATION, [(scale * SIZE, LAYERS, which) for which in ("none", "plain", kind)]
        )
        assert plain - none > scale * (LAYERS - 1) * SAVED * ACTIVATION
        stored = scale * LAYERS * ACTIVATION
        # beyond them: the graph of one penalty, while no backward pass runs
        assert eager - none < stored + scale * (SAVED * ACTIVATION + SLACK) + GRAPH
        assert none > scale * LAYERS * ACTIVATION  # what all of them store


def test_one_large_penalty_beside_a_deep_network() -> None:
    """The penalty's own graph is gone when the network builds its own: only the stored gradient is left of it."""
    preparation = (
        PREPARATION
        + """
def measured(size, layers, kind):
    x = torch.linspace(0.1, 2.0, size).requires_grad_()
    h, value = layer(x, kind)
    for _ in range(layers):
        h = torch.tanh(h)
    (h.sum() + value).backward()
"""
    )
    for scale in (1, 3):
        none, eager = peaks(preparation, [(scale * SIZE, 24, kind) for kind in ("none", "eager")])
        assert 0.5 * scale * ACTIVATION < eager - none < 1.5 * scale * ACTIVATION


def test_memory_inside_a_scan() -> None:
    """The tapes of a scan do not record the penalties."""
    # what else a process touches only adds to its peak: of three processes the least
    found = [peaks(PREPARATION, [(SIZE, 36, kind, True) for kind in ("plain", "eager")]) for _ in range(3)]
    plain, eager = (min(each) for each in zip(*found, strict=True))
    tapes = 6 * 2 * ACTIVATION  # of 6 steps: an activation and a stored gradient each
    assert eager < 6 * ACTIVATION + tapes + SAVED * ACTIVATION + SLACK + GRAPH
    assert plain > 6 * (1 + SAVED) * ACTIVATION


def test_freed_memory_goes_back() -> None:
    """With the allocator as users have it, which may keep what is freed between things that stay."""
    none, eager = peaks(PREPARATION, [(4 * SIZE, 24, kind) for kind in ("none", "eager")], exact=False)
    assert (
        eager - none < 4 * (24 * ACTIVATION + SAVED * ACTIVATION + SLACK) + 70
    )  # twice as much if the holes were kept
