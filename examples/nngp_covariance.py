"""A deep convolutional network of infinite width on images: memory of its covariances, training of its variances.

    python examples/nngp_covariance.py [--quick]

Seven layers of 3x3 convolution and ReLU, and a dense one, each with a trainable variance of weights and of biases.
Of infinite width, such a network is a Gaussian process, whose covariance between all pairs of images is carried
through the layers pixel by pixel (Novak et al., "Bayesian deep convolutional networks with many channels are Gaussian
processes", ICLR 2019; Garriga-Alonso et al., "Deep convolutional networks as shallow Gaussian processes", ICLR 2019:
without pooling, a pixel of one image needs the covariances with the same pixel of the other only). Images are
scikit-learn's digits where that is installed, otherwise made here. Each case is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, one_hot, pad

from otreg.autodiff import blockwise
from otreg.kernels import relu_covariance

LAYERS = 7
BLOCK = 16  # images: a tile's graph has some hundred arrays of 16 x 16 images
NOISE = 0.05  # variance of the labels' noise


def convolved(covariance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Covariances after a 3x3 convolution with zeros around the image, of shape (..., H, W)."""
    wide = pad(covariance, (1, 1))
    rows = pad(wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:], (0, 0, 1, 1))
    return bias + weight / 9.0 * (rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :])


def network(x: Tensor, y: Tensor, log_variances: Tensor) -> Tensor:
    """Covariances (n, m) of what the network makes of images (n, C, H, W) and (m, C, H, W)."""
    across = torch.einsum("nchw,mchw->nmhw", x, y) / x.shape[1]
    of_x, of_y = (images.square().mean(dim=1) for images in (x, y))
    *hidden, (last_weight, last_bias) = log_variances.exp().unbind()
    for weight, bias in hidden:
        across, of_x, of_y = (convolved(part, weight, bias) for part in (across, of_x, of_y))
        across = relu_covariance(across, of_x[:, None], of_y[None])
        of_x, of_y = 0.5 * of_x, 0.5 * of_y  # relu_covariance(v, v, v) = v / 2
    return last_bias + last_weight * across.mean(dim=(2, 3))


def covariance(images: Tensor, log_variances: Tensor, how: str = "ours") -> Tensor:
    if how == "plain":
        return network(images, images, log_variances)
    return blockwise(network, images, None, log_variances, block=BLOCK)


def loss(matrix: Tensor, labels: Tensor) -> Tensor:
    """Negative log marginal likelihood of kernel regression, for each label."""
    matrix = matrix.double() + NOISE * torch.eye(len(matrix), dtype=torch.float64)
    factor = torch.linalg.cholesky(matrix)
    fit = torch.cholesky_solve(labels, factor)
    each = 0.5 * (labels * fit).sum(dim=0) + factor.diagonal().log().sum()
    return each.mean() / len(labels)


def start() -> Tensor:
    """Logarithms of (weight variance, bias variance) of all layers."""
    return torch.tensor([[2.0, 0.3]] * LAYERS + [[1.0, 0.3]]).log()


def images_of(count: int, side: int) -> tuple[Tensor, Tensor, str]:
    """Images (count, 1, side, side), centred labels (count, classes) in float64, and what they are."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        pixels, classes = made(count, side)
        what = "made: rings, crosses, squares, bars"
    else:
        digits = load_digits()
        repeats = -(-count // len(digits.target))
        small = torch.from_numpy(digits.images.astype(np.float32)[:count] / 16.0)
        pixels = interpolate(small.repeat(repeats, 1, 1)[:count, None], size=(side, side), mode="bilinear")
        classes = torch.from_numpy(digits.target[:count]).repeat(repeats)[:count].long()
        what = "scikit-learn's digits"
    pixels = pixels - pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = pixels / pixels.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    labels = one_hot(classes, int(classes.max()) + 1).double()
    return pixels, labels - labels.mean(dim=0), what


def made(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Four shapes at random places in random sizes, with noise."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(count) % 4
    size = 0.25 + 0.15 * torch.rand(count, 1, 1, generator=generator)
    centre = 0.5 + 0.15 * (torch.rand(2, count, 1, 1, generator=generator) - 0.5)
    axis = (torch.arange(side) + 0.5) / side
    u, v = axis[None, :, None] - centre[0], axis[None, None, :] - centre[1]
    thickness = 0.06
    far = torch.maximum(u.abs(), v.abs())
    shapes = torch.stack(
        [
            ((u.square() + v.square()).sqrt() - size).abs() < thickness,
            (torch.minimum(u.abs(), v.abs()) < thickness) & (far < size),
            (far - size).abs() < thickness,
            (u.abs() < thickness) & (v.abs() < size),
        ]
    )
    picked = shapes[classes, torch.arange(count)].float()
    return (picked + 0.6 * torch.randn(picked.shape, generator=generator))[:, None], classes


def peak() -> float:
    """Most memory that this process has held so far, in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1e6 if sys.platform == "darwin" else 1e3)


def measure(how: str, count: int, side: int) -> None:
    """Print the MB and seconds of one loss and its gradient."""

    def once(count: int) -> None:
        images, labels, _ = images_of(count, side)
        variances = start().requires_grad_()
        loss(covariance(images, variances, how), labels).backward()

    once(8)  # what the libraries themselves touch
    before, begin = peak(), time.perf_counter()
    once(count)
    print(peak() - before, time.perf_counter() - begin)


def measured(how: str, count: int, side: int) -> tuple[float, float]:
    """MB and seconds, from a process of its own."""
    command = [sys.executable, __file__, "--case", how, str(count), str(side)]
    # glibc gives freed arrays of 4 MB and more back at once, so that what is measured is what is held; smaller
    # ones it keeps for the next
    glibc = {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
    environment = {**os.environ, **glibc}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{how} with {count} images failed:\n{done.stderr}")
    megabytes, seconds = done.stdout.split()
    return float(megabytes), float(seconds)


def table(counts: Sequence[int], side: int, limit: float) -> None:
    """Memory and time for each number of images; ``limit`` in GB is not passed."""
    found = {counts[0] // 2: measured("plain", counts[0] // 2, side)}
    print("images    plain autograd          blockwise")
    for count in counts:
        known = max(found)  # memory grows with the number of pairs
        expected = found[known][0] * (count / known) ** 2 / 1e3
        if expected > limit:
            plain = f"would take {expected:.1f} GB"
        else:
            if count not in found:
                found[count] = measured("plain", count, side)
            plain = f"{found[count][0]:6.0f} MB {found[count][1]:6.1f} s"
        megabytes, seconds = measured("ours", count, side)
        print(f"{count:6d}    {plain:<21}{megabytes:6.0f} MB {seconds:6.1f} s", flush=True)


def train(count: int, side: int, steps: int) -> None:
    """Fit the variances to labels, and classify images that were not among them."""
    images, labels, what = images_of(2 * count, side)
    # in a random order, so that both halves have all classes
    order = torch.randperm(2 * count, generator=torch.Generator().manual_seed(1))
    images, labels = images[order], labels[order]
    known, unknown = slice(0, count), slice(count, None)
    print(f"{count} images to learn from, {count} to tell apart ({what})")
    variances = start().requires_grad_()

    small = images[: 2 * BLOCK + 1]
    plain, ours = (
        torch.autograd.grad(covariance(small, variances, how).sum(), variances)[0]
        for how in ("plain", "ours")
    )
    difference = float((plain - ours).abs().max() / plain.abs().max())
    print(f"gradients of plain autograd and of blockwise agree to {difference:.1e}")
    assert difference < 1e-5

    optimizer = torch.optim.Adam([variances], lr=0.1)
    values = []
    for _ in range(steps + 1):
        value = loss(covariance(images[known], variances), labels[known])
        values.append(value.item())
        if len(values) <= steps:
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    print(f"loss from {values[0]:.4f} to {values[-1]:.4f} in {steps} steps")
    assert values[-1] < values[0]

    with torch.no_grad():
        for name, fitted in (("before", start()), ("after", variances)):
            own = blockwise(network, images[known], None, fitted).double()
            other = blockwise(network, images[unknown], images[known], fitted).double()
            fit = torch.linalg.solve(own + NOISE * torch.eye(count, dtype=torch.float64), labels[known])
            right = ((other @ fit).argmax(dim=1) == labels[unknown].argmax(dim=1)).double().mean()
            print(f"{name}: {100 * float(right):.0f}% told apart")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="small images, few of them, and a limit of 0.4 GB"
    )
    parser.add_argument(
        "--memory", type=float, help="GB that plain autograd may take (default: 16, or 80%% of all)"
    )
    parser.add_argument("--case", nargs=3, metavar=("HOW", "IMAGES", "SIDE"), help="measure one case alone")
    arguments = parser.parse_args()
    if arguments.case:
        measure(arguments.case[0], int(arguments.case[1]), int(arguments.case[2]))
        return
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    quick = arguments.quick
    limit = arguments.memory or (0.4 if quick else min(16.0, 0.8 * machine))
    # first, while this process is small: a child begins with the peak of its parent
    table((48, 128) if quick else (100, 125, 150, 175, 500), 14 if quick else 24, limit)
    train(24 if quick else 100, 14 if quick else 24, 8 if quick else 10)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine:.0f} GB in the machine")


if __name__ == "__main__":
    main()
