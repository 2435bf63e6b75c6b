"""The registered surrogates: options, and which steps they are made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from nnembed.aliases import Array
from nnembed.errors import InputError

from nnembed_sparse.factor import Factor
from nnembed_sparse.layerwise import all_traces, refit
from nnembed_sparse.layout import Layout, Mask, patches, unfolded
from nnembed_sparse.multi import staged
from nnembed_sparse.newton import Steps
from nnembed_sparse.pruner import Pruned, Pruner, Task, undecayed_scores
from nnembed_sparse.regions import allocate
from nnembed_sparse.surgeon import Search, construct, improve, magnitude_mask, update
from nnembed_sparse.sweep import sweep

_WORK = 5e10  # operations of the system of one update
_REFIT = 1e11  # operations up to which the sweep is followed by least squares
_FIRST = 0.2  # density after the first of several rounds
_SHARES = (0.25, 0.5, 0.75, 1.0)  # of the update that are tried


@dataclass(frozen=True)
class Surgeon(Pruner):
    """Combinatorial brain surgeon: weights are chosen together, the others moved together.

    Parameters
    ----------
    rows : int
        Samples in the Fisher matrix.
    damping : float
        Added to its diagonal for the update.
    search : Search
        Of the selection.
    select_only : bool
        Leave the update out.
    ratio : float
        Least ratio of the densities of successive rounds below 0.2, 0 <= ratio < 1; the Fisher matrix is new in each.
        0 is the published method: one round.
    """

    rows: int = 2000
    damping: float = 1e-3
    search: Search = field(default_factory=Search)
    select_only: bool = False
    ratio: float = 0.4

    name = "surgeon"
    summary = "combinatorial brain surgeon: joint selection by swaps on the Fisher matrix, joint update of the rest"

    def __post_init__(self) -> None:
        """Refuse what the search could not use."""
        super().__post_init__()
        if not (0 <= self.ratio < 1 and self.rows >= 1 and self.damping > 0):
            raise InputError(
                f"rows={self.rows}, damping={self.damping}, ratio={self.ratio}; "
                "give rows >= 1, damping > 0 and 0 <= ratio < 1"
            )

    def prune(self, task: Task) -> Pruned:
        """See `Pruner.prune`."""
        layout = unfolded(task.layout)
        search, tried = self.search, 2
        for kept in self._counts(task):
            if kept != task.kept and task.clock.expired:
                continue
            vector = self._round(replace(task, layout=layout, kept=kept), search, tried)
            search, tried = replace(self.search, starts=self.search.starts // 5), 1
            if kept != task.kept:
                layout = replace(layout, network=layout.rebuilt(vector))
        return Pruned(layout, vector)

    def _counts(self, task: Task) -> list[int]:
        """Return how many weights are left after each round."""
        first, final = _FIRST * task.layout.count, max(task.kept, 1)
        if self.ratio == 0 or final >= first:
            return [task.kept]
        rounds = int(np.ceil(np.log(first / final) / -np.log(self.ratio) - 1e-9))
        return [*(int(first * (final / first) ** (k / rounds)) for k in range(rounds)), task.kept]

    def _round(self, task: Task, search: Search, tried: int) -> Array:
        """Return weights after one round; swaps start from the `tried` best masks."""
        layout, start = task.layout, task.layout.start
        factor = task.calibration.drawn(self._rows(task), task.rng).fisher(layout, start, task.rng)

        def judge(keep: Mask) -> float:
            return task.value(start * task.whole(keep))

        clock = task.clock
        built = [construct(s, task.kept, judge, search, task.rng, clock) for s in magnitudes(task)]
        built.sort(key=lambda found: found[0])
        keep = min((improve(layout, factor, keep, judge, search, clock) for _, keep in built[:tried]), key=judge)
        return start * task.whole(keep) if self.select_only else self._updated(task, factor, keep)

    def _rows(self, task: Task) -> int:
        """Return how many rows the Fisher factor gets: memory and the K x K system over what stays set limits."""
        return task.layout.affordable(max(64, min(self.rows, int((_WORK / max(1, task.kept)) ** 0.5))))

    def _updated(self, task: Task, factor: Factor, keep: Mask) -> Array:
        """Return the best, by sample loss, of shares of the update: all of it may be too much at high sparsity."""
        whole = task.whole(keep)
        before = task.layout.start * whole
        trials = [before]
        for end in update(factor, task.layout.start, whole, (self.damping, 10 * self.damping)):
            trials += [before + s * (end - before) for s in _SHARES]
        return min(trials, key=task.value)


def magnitudes(task: Task) -> list[Array]:
    """Return magnitudes in three units of the inputs.

    The network's inputs in their spread and all else as it is; each layer's inputs in theirs; each single input in its.
    """
    layout, state = task.layout, task.layout.network.forward(task.calibration.inputs)
    given = {spec.name for spec in layout.network.inputs}
    plain, layers, single = (np.abs(layout.start[: layout.count]) for _ in range(3))
    for part, centre in zip(layout.weights, layout.centres, strict=True):
        node = layout.node(part)
        source = node.inputs[part.operator]
        spread = patches(node.operators[part.operator], state[source]) - centre[:, None, None, :]
        square = (spread**2).mean(axis=(1, 2))
        mean = np.sqrt(square.mean()) or 1.0
        layers[part.span] *= mean
        plain[part.span] *= mean if source in given else 1.0
        rows = single[part.span].reshape(part.groups, -1, part.columns)
        rows *= np.sqrt(square)[:, None, :]
    return [plain, layers, single]


@dataclass(frozen=True)
class Obc(Pruner):
    """Layer-wise optimal brain compression with one budget for all layers.

    Parameters
    ----------
    damping : float
        Added to the second moments of each layer's inputs, relative to their mean.
    """

    damping: float = 0.01

    name = "obc"
    summary = "layer-wise second-order pruning, one budget for all layers by exact row traces, least squares at the end"

    def prune(self, task: Task) -> Pruned:
        """See `Pruner.prune`."""
        keep = all_traces(task.layout, task.calibration, self.damping, task.rng, task.clock).mask(task.kept)
        return Pruned(task.layout, refit(task.layout, task.calibration, keep, self.damping / 10))


def _refit_work(layout: Layout, keep: Mask) -> float:
    """Return the operations of the row systems of a refit."""
    parts = layout.weights
    return sum(float((keep[p.span].reshape(p.rows, -1).sum(axis=1) ** 3.0).sum()) / 3 for p in parts)


@dataclass(frozen=True)
class SparseGpt(Pruner):
    """One sweep over the columns of each layer; for layers too wide for `obc`.

    Parameters
    ----------
    damping : float
        As in `Obc`.
    """

    damping: float = 0.01

    name = "sparsegpt"
    summary = "one sweep over each layer's columns with a shared Cholesky factor, for big layers"

    def prune(self, task: Task) -> Pruned:
        """See `Pruner.prune`."""
        layout = task.layout
        vector = sweep(layout, task.calibration, task.kept, self.damping, task.rng)
        keep = vector[: layout.count] != 0
        if task.clock.expired or _refit_work(layout, keep) > _REFIT:
            return Pruned(layout, vector)
        fitted = refit(layout, task.calibration, keep, self.damping / 10)
        return Pruned(layout, min((vector, fitted), key=task.value))


@dataclass(frozen=True)
class Regions(Pruner):
    """Magnitude pruning at the layer densities that allow most linear regions.

    Parameters
    ----------
    refit : bool
        Solve for the weights that stay, layer by layer.
    """

    refit: bool = True

    name = "regions"
    summary = "layer densities by the bound on linear regions of the actual masks, then magnitude"

    def prune(self, task: Task) -> Pruned:
        """See `Pruner.prune`."""
        keep, bound = allocate(task.layout, task.kept)
        vector = task.layout.start * task.whole(keep)
        if self.refit:
            vector = refit(task.layout, task.calibration, keep, 1e-3)
        return Pruned(task.layout, vector, {"log_regions": bound})


@dataclass(frozen=True)
class Undecayed(Pruner):
    """Gradient pruning on the loss without weight decay: the smallest ``|theta dT|`` go."""

    name = "undecayed"
    summary = "the weights with the smallest weight times gradient of the loss without decay become zero"

    def prune(self, task: Task) -> Pruned:
        """See `Pruner.prune`."""
        keep = magnitude_mask(undecayed_scores(task.layout, task.calibration, task.rng), task.kept)
        return Pruned(task.layout, task.layout.start * task.whole(keep))


@dataclass(frozen=True)
class Multi(Pruner):
    """Pruning in stages with the remaining weights solved for in between; the best at high sparsity.

    Parameters
    ----------
    damping : float
        As in `Obc`.
    steps : Steps
        Of the re-solve after each stage.
    last : int
        Gauss-Newton steps after the last stage.
    """

    damping: float = 0.01
    steps: Steps = field(default_factory=Steps)
    last: int = 5

    name = "multi"
    summary = "staged pruning: layer-wise traces, then second-order scores with the other weights re-solved in between"

    def prune(self, task: Task) -> Pruned:
        """See `Pruner.prune`."""
        return Pruned(task.layout, staged(task, self.damping, self.steps, self.last))
