"""Coarse to fine: large blurs are solved on clusters of points, small ones on the points themselves."""

from __future__ import annotations

import dataclasses

from otreg.reductions.engines import Engine
from otreg.reductions.remembering import Remembering
from otreg.reductions.tree import Tree, build_tree, coarsen
from otreg.transport.validation import Problem

SMALLEST_PROBLEM = 4_000_000
"""Pairs below which all blurs are solved on the points themselves."""

COARSEST = 9
"""Depth of the coarsest tree level used: 512 clusters."""

CLUSTER_TO_BLUR = 0.5
"""Largest spread of a cluster, relative to the blur, at which the cluster may stand for its points."""

FINEST_CLUSTER_TO_BLUR = 1.5
"""The same for the smallest clusters: an approximate start there is far cheaper than one on the points."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A problem at one resolution: pass through ``blurs``, and ``converge`` at the final one."""

    problem: Problem
    blurs: list[float]
    converge: bool


def stages(problem: Problem, reduce: Engine, blurs: list[float], warm: bool) -> list[Stage]:
    """Distribute the annealing over resolutions.

    Each blur goes to the coarsest level whose clusters are small against it; the final blur is solved there
    first, and then on the points themselves, which start from potentials that lack only detail.
    """
    full = Stage(problem, blurs, True)
    if warm or len(problem.x) * len(problem.y) < SMALLEST_PROBLEM:
        return [full]
    tree_x, tree_y = _tree(problem, reduce, True), _tree(problem, reduce, False)
    plan: list[Stage] = []
    depth, limit = COARSEST, min(tree_x.depth, tree_y.depth)
    level, spread = _coarse(problem, tree_x, tree_y, min(depth, limit))
    pending: list[float] = []
    for blur in [*blurs, problem.blur]:
        while depth < limit and spread > CLUSTER_TO_BLUR * blur:
            if pending:
                plan.append(Stage(level, pending, False))
                pending = []
            depth += 2
            level, spread = _coarse(problem, tree_x, tree_y, min(depth, limit))
        if spread > FINEST_CLUSTER_TO_BLUR * blur:
            break
        if blur > problem.blur:
            pending.append(blur)
        else:
            plan.append(Stage(level, pending, True))
            pending = []
    if pending:
        plan.append(Stage(level, pending, False))
    done = sum(len(stage.blurs) for stage in plan)
    return [*plan, dataclasses.replace(full, blurs=blurs[done:])]


def release(reduce: Engine, done: Stage) -> None:
    """Let the engine free what it knows of the clusters of a stage."""
    if isinstance(reduce, Remembering):
        reduce.release(done.problem.x, done.problem.y)


def _tree(problem: Problem, reduce: Engine, first: bool) -> Tree:
    points = problem.x if first else problem.y
    return reduce.tree(points) if isinstance(reduce, Remembering) else build_tree(points)


def _coarse(problem: Problem, tree_x: Tree, tree_y: Tree, depth: int) -> tuple[Problem, float]:
    x, a, spread_x = coarsen(problem.x, problem.a, tree_x, depth)
    if problem.is_self:
        return dataclasses.replace(problem, x=x, y=x, a=a, b=a), spread_x
    y, b, spread_y = coarsen(problem.y, problem.b, tree_y, depth)
    return dataclasses.replace(problem, x=x, y=y, a=a, b=b), max(spread_x, spread_y)
