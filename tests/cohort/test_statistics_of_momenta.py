"""Components, regression and groups on momenta whose modes, slopes and differences are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import f as f_distribution

from otreg.cohort import (
    Components,
    GroupDifference,
    Regression,
    geodesic_regression,
    group_difference,
    principal_components,
)
from otreg.errors import InputError
from otreg.surface import Surface
from tests.cohort.phantoms import bean_space, bean_surface, dense_kernel, random_momenta

SHAPE = bean_surface(150)
SPACE = bean_space(SHAPE)
MATRIX = dense_kernel(SPACE)


def orthonormal(count: int) -> np.ndarray:
    """Momenta (count, C, 3) with the identity as their Gram matrix."""
    raw = random_momenta(SPACE, count, 1.0, 3)
    factor = np.linalg.cholesky(np.einsum("ncd,ce,med->nm", raw, MATRIX, raw))
    return np.einsum("nm,mcd->ncd", np.linalg.inv(factor), raw)


def test_components_are_the_modes_that_were_put_in() -> None:
    """Two modes with exactly known, uncorrelated scores about a mean: span, variances and scores come back."""
    modes = orthonormal(3)
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(40, 2))
    raw -= raw.mean(axis=0)
    raw = np.linalg.qr(raw)[0]
    scores = raw * np.sqrt(39.0) * [6.0, 2.5]
    momenta = 4.0 * modes[2] + np.einsum("nk,kcd->ncd", scores, modes[:2])
    found = principal_components(SPACE, momenta)
    assert len(found) == 2
    np.testing.assert_allclose(found.variances, [36.0, 6.25], rtol=1e-8)
    np.testing.assert_allclose(found.explained, np.array([36.0, 6.25]) / 42.25, rtol=1e-8)
    np.testing.assert_allclose(found.mean, 4.0 * modes[2], atol=1e-9)
    overlap = np.einsum("kcd,ce,led->kl", found.modes, MATRIX, modes[:2])
    np.testing.assert_allclose(np.abs(overlap), np.eye(2), atol=1e-8)
    np.testing.assert_allclose(np.abs(found.scores), np.abs(scores), atol=1e-7)
    assert all(column[np.abs(column).argmax()] > 0 for column in found.scores.T)
    squares = ((scores[:, None] - scores[None]) ** 2).sum(-1)
    np.testing.assert_allclose(found.distances, np.sqrt(squares), atol=1e-7)
    np.testing.assert_allclose(SPACE.norms(found.momenta(0, 2.0)), [12.0], rtol=1e-8)


def test_components_are_those_of_the_dense_covariance() -> None:
    momenta = random_momenta(SPACE, 6, 5.0, 9)
    found = principal_components(SPACE, momenta, modes=3)
    root = np.linalg.cholesky(MATRIX).T  # |root p| = |p|_K
    flat = (root @ momenta).reshape(6, -1)
    values = np.linalg.svd(flat - flat.mean(axis=0), compute_uv=False) ** 2 / 5.0
    np.testing.assert_allclose(found.variances, values[:3], rtol=1e-9)
    assert found.total == pytest.approx(values.sum())
    everything = principal_components(SPACE, momenta)
    assert len(everything) == 5
    rebuilt = everything.mean + np.einsum("nk,kcd->ncd", everything.scores, everything.modes)
    assert SPACE.norms(rebuilt - momenta).max() < 1e-6


def test_subjects_that_are_all_the_same_have_no_components() -> None:
    found = principal_components(SPACE, np.zeros((3, *SPACE.control_points.shape)))
    assert len(found) == 0 and found.total == 0.0 and not found.distances.any()


def test_regression_finds_the_slope() -> None:
    modes = orthonormal(4)
    ages = np.array([3.0, 5.0, 8.0, 13.0, 21.0, 34.0])
    exact = modes[0] + 0.7 * (ages - ages.mean())[:, None, None] * modes[1]
    found = geodesic_regression(SPACE, ages, exact, on="age", permutations=199)
    assert SPACE.norms(found.slope - 0.7 * modes[1])[0] < 1e-8
    assert SPACE.norms(found.intercept - modes[0])[0] < 1e-8
    assert found.r_squared == pytest.approx(1.0)
    assert found.p_value < 0.02
    assert SPACE.norms(found.momenta(10.0) - (modes[0] + 0.7 * (10.0 - ages.mean()) * modes[1]))[0] < 1e-8
    # orthogonal noise adds to the whole, not to the slope: R² in closed form
    noise = np.array([1.0, -1.0, 0.0, 0.0, 0.0, 0.0])
    noise -= np.polyval(np.polyfit(ages, noise, 1), ages)
    noisy = exact + 8.0 * noise[:, None, None] * modes[2]
    found = geodesic_regression(SPACE, ages, noisy, permutations=199)
    spread = 0.49 * ((ages - ages.mean()) ** 2).sum()
    assert found.r_squared == pytest.approx(spread / (spread + 64.0 * (noise**2).sum()))
    assert SPACE.norms(found.slope - 0.7 * modes[1])[0] < 1e-8
    np.testing.assert_allclose(found.residuals, 8.0 * np.abs(noise), atol=1e-7)


def test_regression_leaves_unknown_values_out() -> None:
    momenta = random_momenta(SPACE, 5, 2.0, 1)
    values = np.array([1.0, np.nan, 2.0, 4.0, 3.0])
    known = np.isfinite(values)
    found = geodesic_regression(SPACE, values, momenta, names=tuple("abcde"), permutations=99)
    wanted = geodesic_regression(SPACE, values[known], momenta[known], permutations=99)
    assert found.names == ("a", "c", "d", "e")
    np.testing.assert_array_equal(found.slope, wanted.slope)
    assert found.p_value == wanted.p_value


def binomial_bounds(count: int, level: float) -> tuple[float, float]:
    """Between which counts all but one in a thousand experiments end."""
    from scipy.stats import binom

    return float(binom.ppf(5e-4, count, level)), float(binom.ppf(1.0 - 5e-4, count, level))


def test_regression_on_nothing_is_significant_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    momenta = random_momenta(SPACE, 12, 3.0, 5)
    values = [
        geodesic_regression(SPACE, rng.normal(size=12), momenta, permutations=199, seed=k).p_value
        for k in range(300)
    ]
    low, high = binomial_bounds(300, 0.05)
    assert low <= sum(p <= 0.05 for p in values) <= high
    low, high = binomial_bounds(300, 0.5)
    assert low <= sum(p <= 0.5 for p in values) <= high


@pytest.mark.parametrize("statistic", ["hotelling", "difference"])
def test_groups_that_do_not_differ_are_marked_as_often_as_it_says(statistic: str) -> None:
    """Whether any vertex is marked: the corrected test of smooth, correlated displacements."""
    momenta = random_momenta(SPACE, 14 * 300, 3.0, 6).reshape(300, 14, *SPACE.control_points.shape)
    groups = ["a"] * 7 + ["b"] * 7
    found = [
        group_difference(
            SHAPE, groups, SPACE.velocities(part, SHAPE.points), statistic=statistic, permutations=99, seed=k
        ).p_value
        for k, part in enumerate(momenta)
    ]
    low, high = binomial_bounds(300, 0.05)
    assert low <= sum(p <= 0.05 for p in found) <= high


def test_a_difference_is_found_where_it_is() -> None:
    rng = np.random.default_rng(7)
    displacements = rng.normal(scale=0.5, size=(24, len(SHAPE), 3))
    there = SHAPE.points[:, 0] > np.quantile(SHAPE.points[:, 0], 0.8)
    groups = ["healthy", "sick"] * 12
    displacements[1::2, there] += [0.0, 0.0, 3.0]
    found = group_difference(SHAPE, groups, displacements, column="state", permutations=499)
    marked = found.shape.point_data["p_corrected"] <= 0.05
    assert marked[there].all() and not marked[~there].any()
    assert (
        found.p_value == pytest.approx(found.shape.point_data["p_corrected"].min()) and found.p_value < 0.01
    )
    mean = displacements[1::2].mean(axis=0) - displacements[::2].mean(axis=0)
    np.testing.assert_allclose(found.shape.point_data["difference"], mean, atol=1e-12)
    assert found.groups == ("healthy", "sick") and found.counts == (12, 12)


def test_the_statistic_is_hotellings_and_its_p_values_those_of_theory() -> None:
    """T² against its definition with dense covariances; permuted p-values against the F distribution."""
    rng = np.random.default_rng(8)
    shape = Surface(SHAPE.points[:40])
    displacements = rng.normal(size=(30, 40, 3)) @ rng.normal(size=(3, 3))
    second = np.arange(30) >= 13
    displacements[second, :10] += 0.8
    found = group_difference(shape, ["b" if one else "a" for one in second], displacements, permutations=2000)
    wanted = []
    for vertex in range(40):
        one, other = displacements[~second, vertex], displacements[second, vertex]
        pooled = (12 * np.cov(one.T) + 16 * np.cov(other.T)) / 28
        d = other.mean(axis=0) - one.mean(axis=0)
        wanted.append(13 * 17 / 30 * d @ np.linalg.solve(pooled, d))
    np.testing.assert_allclose(found.shape.point_data["statistic"], wanted, rtol=1e-5)
    theory = f_distribution.sf(np.array(wanted) * (30 - 4) / (28 * 3), 3, 26)
    np.testing.assert_allclose(found.shape.point_data["p_vertex"], theory, atol=0.05)
    assert np.all(found.shape.point_data["p_corrected"] >= found.shape.point_data["p_vertex"] - 1e-12)


def test_vertices_in_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from otreg.cohort import groups

    displacements = SPACE.velocities(random_momenta(SPACE, 8, 3.0, 2), SHAPE.points)
    labels = list("aabbabab")
    whole = group_difference(SHAPE, labels, displacements, permutations=99)
    monkeypatch.setattr(groups, "_NUMBERS_AT_ONCE", 3 * 256 * 40)
    parts = group_difference(SHAPE, labels, displacements, permutations=99)
    # the ridge is a share of the block's mean covariance, a billionth
    for name in ("statistic", "p_vertex", "p_corrected"):
        np.testing.assert_allclose(
            parts.shape.point_data[name], whole.shape.point_data[name], rtol=1e-5, atol=0.011
        )


def test_results_come_back_from_their_files(tmp_path: Path) -> None:
    momenta = random_momenta(SPACE, 8, 3.0, 2)
    components = principal_components(SPACE, momenta, modes=2)
    again = Components.load(components.save(tmp_path / "c.h5"))
    for name in ("mean", "modes", "variances", "scores", "distances"):
        np.testing.assert_array_equal(getattr(again, name), getattr(components, name))
    assert again.names == components.names and again.total == components.total
    np.testing.assert_array_equal(again.surface(1, 2.0).points, components.surface(1, 2.0).points)
    regression = geodesic_regression(SPACE, np.arange(8.0), momenta, on="age", permutations=19)
    back = Regression.load(regression.save(tmp_path / "r.h5"))
    assert (back.on, back.p_value, back.r_squared) == ("age", regression.p_value, regression.r_squared)
    np.testing.assert_array_equal(back.surface(3.0).points, regression.surface(3.0).points)
    difference = group_difference(SHAPE, list("aabbabab"), np.zeros((8, len(SHAPE), 3)), permutations=19)
    assert difference.p_value == 1.0
    same = GroupDifference.load(difference.save(tmp_path / "g.h5"))
    assert (same.groups, same.counts, same.p_value) == (("a", "b"), (4, 4), 1.0)
    np.testing.assert_array_equal(
        same.shape.point_data["p_corrected"], difference.shape.point_data["p_corrected"]
    )
    with pytest.raises(InputError, match=r"r\.h5: holds otreg-regression, not an otreg-components"):
        Components.load(tmp_path / "r.h5")
    (tmp_path / "broken.h5").write_bytes((tmp_path / "c.h5").read_bytes()[:600])
    with pytest.raises(InputError, match=r"broken\.h5"):
        Components.load(tmp_path / "broken.h5")
    with pytest.raises(InputError, match=r"none\.h5: no such file"):
        Components.load(tmp_path / "none.h5")


def test_results_are_plotted() -> None:
    shape = bean_surface(150)
    momenta = random_momenta(SPACE, 8, 3.0, 2)
    components = principal_components(SPACE, momenta)
    assert next(panel.caption for panel in components.plot(1).panels) == "mode 2: -2 sd"
    regression = geodesic_regression(SPACE, np.arange(8.0), momenta, on="age", permutations=19)
    assert [panel.caption for panel in regression.plot().panels] == ["age = 0", "age = 3.5", "age = 7"]
    displacements = SPACE.velocities(momenta, shape.points)
    found = group_difference(shape, list("aabbabab"), displacements, permutations=19).plot()
    assert found.colouring is not None and found.image().shape[2] == 3


def test_bad_input_is_refused() -> None:
    momenta = random_momenta(SPACE, 4, 3.0, 2)
    with pytest.raises(InputError, match="two or more subjects, got 1"):
        principal_components(SPACE, momenta[:1])
    with pytest.raises(InputError, match="momenta are needed"):
        principal_components(SPACE)
    with pytest.raises(InputError, match="age must have one value for each of 4 subjects"):
        geodesic_regression(SPACE, [1.0, 2.0], momenta, on="age")
    with pytest.raises(InputError, match="age is known of 2 subjects"):
        geodesic_regression(SPACE, [1.0, 2.0, np.nan, np.nan], momenta, on="age")
    with pytest.raises(InputError, match="the same for all subjects"):
        geodesic_regression(SPACE, [7.0] * 4, momenta)
    with pytest.raises(InputError, match="permutations must be"):
        geodesic_regression(SPACE, np.arange(4.0), momenta, permutations=0)
    nothing = np.zeros((4, len(SHAPE), 3))
    with pytest.raises(InputError, match="two groups apart, got 3: a, b, c"):
        group_difference(SHAPE, ["a", "b", "c", None], nothing)
    with pytest.raises(InputError, match="too small for the hotelling test"):
        group_difference(SHAPE, ["a", "a", "b", "b"], nothing)
    with pytest.raises(InputError, match="unknown statistic"):
        group_difference(SHAPE, ["a", "a", "b", "b"], nothing, statistic="t")
    with pytest.raises(InputError, match="displacements must be finite"):
        group_difference(SHAPE, ["a", "a", "b", "b"], nothing[:, :3])
