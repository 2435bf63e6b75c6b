"""Bounds from linear programs over the relaxed network, layer by layer, only where cheaper methods left something open.

For every layer in turn: backward linear bounds with all that is known by then; points of the network that show which
neurons are truly open; one hot linear program over the layers before, its objective changed from neuron to neuron
(`lp_chunk`); every bound rebuilt from the duals with outward rounding (`safe_dual`). With rows of the user's model
(`Bounds.region`) these join the program, and where they speak of the outputs, every program is of the whole network, so
that requirements on the outputs flow backwards.

Sources: Tjeng, Xiao and Tedrake, ICLR 2019 (progressive tightening); Grimstad and Andersson, Computers & Chem. Eng. 131
(2019); Neumaier and Shcherbina, Math. Programming 99 (2004).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from nnembed.aliases import Array
from nnembed.bounds.box import Bounds, Provenance
from nnembed.bounds.interval import Interval
from nnembed.bounds.lp_run import Run, Settings
from nnembed.ir.network import Network
from nnembed.options import Budget
from nnembed.protocols import BoundTightener


class Lp:
    """Linear programs over the triangle relaxation.

    Parameters
    ----------
    widths : bool
        Also narrow neurons that stay open: their big-M coefficients and the relaxation of later layers with them.
    gain : float
        Share of its width that a bound of an open neuron must be able to gain, and that such bounds must gain on
        average, for this to go on in a layer.
    min_rate : float
        Neurons decided per second of estimated work below which no more are tried in a layer; 0 tries all. Branching
        settles more: HiGHS closed 74 open neurons of a classifier in 10 s, and not yet 110 of an ACAS network in 60 s.
        The default is a quarter of the latter, since bounds that are found also strengthen what branching begins with.
    grid : float or None
        Round bounds outward to multiples of this.
    whole : bool or None
        Write the whole network into every program instead of the layers before; None does so where the user's rows
        speak of outputs. Without rows it cannot narrow anything.
    outputs : bool
        Bound the outputs as well, with one program for each side.
    """

    name = "lp"
    summary = "linear programs over the layers before, for neurons still open"
    sound = True
    cost = 40
    uses_region = True

    def __init__(
        self,
        *,
        widths: bool = True,
        gain: float = 0.01,
        min_rate: float = 0.5,
        grid: float | None = None,
        whole: bool | None = None,
        outputs: bool = True,
    ):
        self.settings = Settings(widths, gain, min_rate, grid, whole, outputs)

    def tighten(self, network: Network, bounds: Bounds, budget: Budget) -> Bounds:
        """Return bounds of all tensors; see `protocols.BoundTightener`.

        When the budget ends, what has been found stays, and a later pass over the same bounds goes on from there: the
        history holds which sides have had their program.
        """
        return through(self, self.settings, Run, bounds, budget)


def through(method: BoundTightener, settings: Settings, kind: type[Run], bounds: Bounds, budget: Budget) -> Bounds:
    """Run one pass of a kind over every box of a batch, or over all of them where a region joins them.

    Parameters
    ----------
    method : BoundTightener
        Whose name the history gets.
    settings : Settings
    kind : class
        `Run` or a subclass.
    bounds : Bounds
    budget : Budget
    """
    clock = budget.start()
    if not bounds.complete:
        bounds = replace(Interval().tighten(bounds.network, bounds, budget), history=bounds.history)
    last = next((p for p in reversed(bounds.history) if p.method == method.name and "" in p.state), None)
    if last is not None and not np.array_equal(last.state[""], _fingerprint(settings, bounds)):
        last = None
    if last is not None and last.finished:
        return bounds.intersect({}, {}, replace(last, seconds=clock.elapsed, lps=0))
    done = {} if last is None else {t: mask.astype(bool) for t, mask in last.state.items() if t}
    runs: list[Run] = []
    joined = bounds.region is not None or bounds.batch == 1
    for k in range(1 if joined else bounds.batch):
        part = bounds if joined else bounds.repeat(np.array([k]), (1,))
        seconds = None if budget.seconds is None else clock.remaining / (1 if joined else bounds.batch - k)
        left = None if budget.lps is None else max(0, budget.lps - sum(r.lps for r in runs))
        own = replace(budget, seconds=seconds, lps=left)
        runs.append(kind(settings, part, own, done if joined else {t: m[:, [k]] for t, m in done.items()}))
        runs[-1].run()
    return _gather(method.name, settings, bounds, runs, clock.elapsed)


def _gather(name: str, settings: Settings, bounds: Bounds, runs: list[Run], seconds: float) -> Bounds:
    """Put the boxes of a batch together; where the region has no point nothing is changed."""
    low, high, done = {}, {}, {}
    if not any(r.infeasible for r in runs):
        low = {t: np.concatenate([r.low[t] for r in runs]) for t in runs[0].low}
        high = {t: np.concatenate([r.high[t] for r in runs]) for t in runs[0].high}
        for tensor in {t: None for r in runs for t in r.done}:
            none = np.zeros((2, 1, bounds.network.tensors[tensor].size), dtype=bool)
            done[tensor] = np.concatenate([r.done.get(tensor, none) for r in runs], axis=1)
    lps, finished = sum(r.lps for r in runs), all(r.finished or r.infeasible for r in runs)
    found = bounds.intersect(low, high, Provenance(name, seconds, -1, lps=lps, finished=finished))
    record = replace(found.history[-1], state={"": _fingerprint(settings, found), **done})
    return replace(found, history=(*found.history[:-1], record))


def _fingerprint(settings: Settings, bounds: Bounds) -> Array:
    """Return a digest of settings, region and bounds: a pass goes on only where all of them are as it left them."""
    digest = hashlib.sha256(repr(settings).encode())
    for tensor in bounds.network.tensors:
        digest.update(bounds.low[tensor].tobytes() + bounds.high[tensor].tobytes())
    if (region := bounds.region) is not None:
        arrays = [region.row_lower, region.row_upper, region.lower, region.upper, region.constant, region.outputs]
        for matrix in (region.matrix, region.inputs):
            arrays += [matrix.data, matrix.indices, matrix.indptr]
        digest.update(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))
    return np.frombuffer(digest.digest(), dtype=np.uint8)
