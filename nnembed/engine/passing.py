"""Search on sparse twins, evaluate every point on the networks themselves.

The twins take the networks' places in the user's model, which is solved as always; every incumbent's inputs are put
through the original networks ("dense passing"; Pham, Ren, Tahir, Tong, Serra). The best point of the original model is
kept and polished there: gradient steps from it, and the linear program of its linear region. Where the outputs of the
networks occur in the objective only, the two models have the same feasible inputs, and the twin's bound, moved by the
proven bound of the difference, is one for the original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.bounds.box import Bounds, input_bounds
from nnembed.bounds.interval import gamma
from nnembed.bounds.ladder import climb, distinct
from nnembed.certificate import relative_gap
from nnembed.embedding import emit_block, make_plan
from nnembed.engine.dual_side import DualSide
from nnembed.engine.embed import tighteners
from nnembed.engine.heard import Ear, Passing
from nnembed.engine.recover import trivial_bound
from nnembed.engine.solve import Run
from nnembed.engine.start import StartSearch, helper
from nnembed.engine.surrogate import bare, configured
from nnembed.engine.units import loaded, objective_size
from nnembed.errors import InputError
from nnembed.events import Event, Incumbent
from nnembed.features import missing
from nnembed.heuristics.scene import Point, split_outputs
from nnembed.options import Budget
from nnembed.problem import Overlay, Problem
from nnembed.protocols import Backend, Session, Solution
from nnembed.result import Result
from nnembed.surrogates.difference import difference_bounds

_BUILD, _SEARCH, _POLISH = 0.1, 0.8, 20  # shares of what is left; rounds of polishing
_ROOT = 0.4  # share of the time for the twins' linear relaxation
_TOUCH = 0.1  # share of the time for gradient steps from the points of the twins
_ROUND = 1.0  # seconds of the first round with a solver that does not show its points


@dataclass(eq=False)
class SurrogateRun(Run):
    """A solve that searches on twins."""

    plain: tuple[Problem, list[Overlay], list[Bounds]] | None = None
    touched: float = 0.0  # seconds of improving points of the twins on the networks

    def __post_init__(self) -> None:
        """Refuse models without networks to replace."""
        super().__post_init__()
        self.surrogate = configured(self.options.surrogate, self.registry, {})
        if not self.embeddings:
            raise InputError("surrogate= is given, but the model has no network; leave it out or embed a network")
        for embedding in self.embeddings:
            if embedding.is_attached:
                raise InputError(
                    f"surrogate= cannot replace the network {embedding.name!r}, whose rows are in the user's model; "
                    "embed it with attach=False"
                )

    def _own(self) -> tuple[Problem, list[Overlay]]:
        own, layers = super()._own()
        self.plain = own, list(layers), [layer.embedding.bounds for layer in layers]
        return own, layers

    def solution(
        self, problem: Problem, backend: Backend, on_event: Callable[[Event], None], stopped: Callable[[], bool]
    ) -> Solution:
        """Search on the twins; on the networks where that leads to nothing."""
        name = self.surrogate.name

        def tell(value: float, x: Array) -> None:
            on_event(Incumbent(self.clock.elapsed, value, None, name, x))

        passing = Passing(problem, tell)
        search = StartSearch(problem, backend, self.heuristics, self.options, self.clock, on_event, stopped)
        assert self.plain is not None
        late = self.plain[0].n_rows > 0  # a first plan that respects rows costs more than a twin's relaxation
        if not late:
            self._start(search, passing)
        if self.reached and passing.best is not None:  # no twin is needed
            return self._solution_of(problem, passing, Solution("interrupted"), ())
        twins = self._phase("twin", self._twins)
        found = self._on_twins(twins, passing, search, late=late)
        if not stopped() and not self.clock.expired and found.status != "interrupted":
            if passing.best is None and found.status in ("infeasible", "unbounded") and self._alike(self.plain[0]):
                return Solution(found.status)
            if passing.best is None or self.options.target is not None:
                return self._on_networks(problem, backend, on_event, stopped, passing)
        solution = self._phase("difference", lambda: self._solution_of(problem, passing, found, twins))
        dual = DualSide(problem, stopped, self.options, self.clock)
        return self._phase("bound", lambda: dual.after(solution))

    def _start(self, search: StartSearch, passing: Passing) -> None:
        """Take the first point that any solve would have."""
        point = self._phase("start", search.run)
        if point is not None:
            passing.take(point.columns, point.values)

    def _on_twins(self, twins: Sequence[Overlay], passing: Passing, search: StartSearch, *, late: bool) -> Solution:
        """Search on the twins and polish on the networks; return what the twins' solver said."""
        assert self.plain is not None
        backend, stopped = search.backend, search.stopped
        inner = TwinRun(self.model, self.options, self.formulation, self.bounds, own=self.plain[0], layers=twins)
        self._phase("root", lambda: self._root(inner, passing, helper(backend), stopped))
        if late and not stopped():
            self._start(search, passing)
        if stopped():
            return Solution("interrupted")
        found: Solution = self._phase("search", lambda: self._search(inner, passing, stopped))
        self._phase("polish", lambda: self._polish(passing, helper(backend), search))
        return found

    def _on_networks(
        self,
        problem: Problem,
        backend: Backend,
        on_event: Callable[[Event], None],
        stopped: Callable[[], bool],
        passing: Passing,
    ) -> Solution:
        """Solve on the networks where the twins led to nothing, or not to the target; from the best point on."""
        if passing.best is not None:
            self.options = replace(self.options, start=passing.best)
        solution = super().solution(problem, backend, on_event, stopped)
        told = f"the twins ({self.surrogate.name}) led to no point"
        if passing.best is not None:
            told = f"the twins ({self.surrogate.name}) were solved without reaching the target"
        return replace(solution, message="; ".join(filter(None, (told, solution.message))))

    def _twins(self) -> list[Overlay]:
        """Return the networks of the model as twins, written for the boxes of their inputs."""
        assert self.plain is not None
        result = []
        for layer, known in zip(self.plain[1], self.plain[2], strict=True):
            embedding = layer.embedding
            left = None if self.options.time_limit is None else _BUILD * self.clock.remaining
            budget = replace(self.options.budget, seconds=left)
            few, which = distinct(known)
            hull = [
                {s.name: f(side[s.name], axis=0) for s in embedding.network.inputs}
                for f, side in ((np.min, few.low), (np.max, few.high))
            ]
            whole = input_bounds(embedding.network, (hull[0], hull[1]))
            network = bare(self.surrogate, embedding.network, whole, budget)
            boxes = [{s.name: side[s.name] for s in network.inputs} for side in (few.low, few.high)]
            start = replace(input_bounds(network, (boxes[0], boxes[1])), lead=few.lead)
            methods = embedding.methods if self.bounds is None else self.bounds
            cheap = isinstance(methods, Bounds) or (isinstance(methods, str) and methods == "auto")
            parts = tighteners("crown" if cheap else methods, self.registry)
            bounds = climb(start, parts, budget)
            bounds = bounds if known.batch == 1 else bounds.repeat(which, known.lead)
            formulation = embedding.formulation if self.formulation is None else self.formulation
            accepts = embedding.host.accepts
            plan, forms = make_plan(network, bounds, formulation, accepts, self.registry, self.options, embedding.name)
            block = emit_block(network, bounds, forms)
            twin = replace(embedding, network=network, bounds=bounds, plan=plan, block=block, _reduction=None)
            result.append(replace(layer, embedding=twin, block=block))
        return result

    def _root(self, inner: TwinRun, passing: Passing, backend: Backend, stopped: Callable[[], bool]) -> None:
        """Pass the point of the twins' linear relaxation, long before the solver has a point of its own."""
        left = None if self.options.time_limit is None else _ROOT * self.clock.remaining
        now = replace(self.options, time_limit=left, start=None, solver_options={}, surrogate=None, target=None)
        twin = replace(inner, options=now, history=[], phases={})._problem()[0]
        if stopped() or self.clock.expired or twin.quadratic is not None:
            return
        whole = np.zeros(twin.n_columns, dtype=bool)
        free = replace(twin, integer=whole, sos1=(), indicators=(), complementarities=(), relus=(), placements=())
        with loaded(backend, free, now) as session:
            found = session.solve(lambda event: None, stopped)
        if found.x is not None:
            passing.hear(found.x)
            assert passing.heard is not None
            clock = Budget(None if left is None else _TOUCH * self.clock.remaining).start()
            self._improve(passing, passing.heard, stopped, clock.remaining)
            self._walk(passing, backend, passing.heard, lambda: stopped() or clock.expired)

    def _walk(self, passing: Passing, backend: Backend, drivers: Array, over: Callable[[], bool]) -> None:
        """Walk over linear regions of the original from a point of the drivers, if the solver takes the model."""
        if not over() and not missing(passing.problem.needs, backend.accepts):
            with self._original(passing, backend) as session:
                passing.walk(session, drivers, over)

    def _original(self, passing: Passing, backend: Backend) -> Session:
        """Return the solver with the original model, for its linear programs."""
        left = None if self.options.time_limit is None else self.clock.remaining
        return loaded(backend, passing.problem, replace(self.options, time_limit=left, solver_options={}))

    def _search(self, inner: TwinRun, passing: Passing, stopped: Callable[[], bool]) -> Solution:
        """Solve the model with the twins; in rounds where the solver does not show its points."""
        share = _SEARCH if self.heuristics else 1.0
        left = None if self.options.time_limit is None else share * self.clock.remaining
        clock = replace(self.options.budget, seconds=left).start()
        start, length = self.options.start, _ROUND
        while True:
            limit = None if left is None else clock.remaining
            now = replace(self.options, time_limit=limit, start=start, surrogate=None, target=None, progress=False)
            turn = replace(inner, options=now, history=[], phases={})
            ear = Ear(passing, length)
            result = turn.run(lambda event, ear=ear: self._hear(event, ear, stopped), either(stopped, ear.over))  # type: ignore[misc]
            if result.point is not None:
                passing.hear(result.point)
                start = result.point[: len(passing.problem.labels)]
            ended = result.status != "interrupted" or not ear.over() or stopped() or clock.expired
            if ended:
                return Solution(result.status, result.point, result.objective, result.bound, result.nodes)
            length *= 2

    def _hear(self, event: Event, ear: Ear, stopped: Callable[[], bool]) -> None:
        """Evaluate an incumbent of the twins, and improve it for a moment: gradients see what pruning has hidden."""
        passing = ear.passing
        passing.heard = None
        ear.hear(event)
        allowed = _TOUCH * self.clock.elapsed - self.touched
        if passing.heard is not None and allowed > 0:
            self._improve(passing, passing.heard, stopped, allowed)

    def _polish(self, passing: Passing, backend: Backend, search: StartSearch) -> None:
        """Improve the best point on the original model: gradients, walks over linear regions, long heuristics."""
        stopped = search.stopped

        def over() -> bool:
            return stopped() or self.clock.expired

        if over() or (passing.best is None and not passing.waiting):
            return
        with ExitStack() as stack:
            session: Session | None = None
            if not missing(passing.problem.needs, backend.accepts):
                session = stack.enter_context(self._original(passing, backend))
                passing.repair(session)
            for _ in range(_POLISH if passing.best is not None else 0):
                before = passing.value
                self._improve(passing, passing.drivers, stopped)
                if session is not None:
                    passing.walk(session, passing.drivers, over)
                if abs(passing.value - before) <= 1e-9 * (1 + abs(before)) or over():
                    break
        self._deepen(search, passing)

    def _deepen(self, search: StartSearch, passing: Passing) -> None:
        """Give heuristics that go on until they are stopped the time that is left, from the best point on."""
        if passing.best is None:
            return
        x = passing.best
        known = Point(np.arange(len(x)), x, passing.value, 0.0, True, np.flatnonzero(passing.problem.integer))
        found = search.deepen(known)
        if found is not None and found is not known:
            passing.take(found.columns, found.values)

    def _improve(self, passing: Passing, drivers: Array, stopped: Callable[[], bool], seconds: float = np.inf) -> None:
        """Take gradient steps on the networks from a point of the drivers."""
        clock = Budget(seconds).start()
        for heuristic in self.heuristics:
            improve = getattr(heuristic, "improve", None)
            left = min(self.clock.remaining, clock.remaining)
            if improve is None or stopped() or left <= 0:
                continue
            budget = replace(self.options.budget, seconds=None if np.isinf(left) else left)
            for found in improve(passing.scene, drivers[None], budget):
                passing.hear_drivers(found.inputs["drivers"]["x"])
                if stopped():
                    break
        self.touched += clock.elapsed

    # ---- what is proved ------------------------------------------------------------------------

    def _alike(self, own: Problem) -> bool:
        """Return whether the networks' outputs occur in the objective only: then twins allow the same points."""
        assert self.plain is not None
        return all(outputs_are_free(own, layer, self.plain[1]) for layer in self.plain[1])

    def _solution_of(self, problem: Problem, passing: Passing, found: Solution, twins: Sequence[Overlay]) -> Solution:
        assert self.plain is not None
        bound, note = trivial_bound(problem), ""
        own, layers, bounds = self.plain
        if found.bound is not None and self._alike(own) and not self.reached:
            shift = sum(self._shift(own, *three) for three in zip(layers, twins, bounds, strict=True))
            moved = found.bound + shift
            note = f"on the box the twin's objective is off by at most {abs(shift):.4g} on the bound's side"
            sign = -1.0 if problem.maximize else 1.0
            bound = moved if bound is None else sign * max(sign * bound, sign * moved)
        size = objective_size(passing.problem)
        gap = relative_gap(passing.value, bound, size) if passing.best is not None else None
        if found.status == "interrupted" and not self.reached:
            status = "interrupted"
        elif passing.best is None:
            status = "time_limit"
        else:
            status = "optimal" if gap is not None and gap <= self.options.gap else "feasible"
        made = f"searched on twins ({self.surrogate.name}), which were solved to status {found.status!r}"
        if self.reached:
            made = f"searched on twins ({self.surrogate.name})" if twins else "no twin was needed for the target"
        value = None if passing.best is None else passing.value
        return Solution(status, passing.best, value, bound, found.nodes, "; ".join(filter(None, (made, note))))

    def _shift(self, own: Problem, layer: Overlay, twin: Overlay, known: Bounds) -> float:
        """Return how much better the objective of a network can be than that of its twin, signed."""
        assert layer.outputs is not None
        network = layer.embedding.network
        cost = split_outputs(network, own.cost[own.position(layer.outputs)][None], known.batch)
        weights = np.concatenate([cost[s.name] for s in network.outputs], axis=1)
        sign = 1.0 if own.maximize else -1.0
        left = None if self.options.time_limit is None else max(1.0, _BUILD * self.clock.remaining)
        budget = replace(self.options.budget, seconds=left)
        few, which = distinct(known)
        if (weights == weights[:1]).all():
            parts = difference_bounds(network, twin.embedding.network, few, budget, sign * weights[:1])[1][which]
        else:
            low, high = difference_bounds(network, twin.embedding.network, few, budget)
            parts = np.maximum(sign * weights * low[which], sign * weights * high[which])
        pad = gamma(parts.size + 4) * float(np.abs(parts).sum())
        return sign * (float(parts.sum()) + pad)


@dataclass(eq=False)
class TwinRun(Run):
    """The user's model with twins in the networks' places; nothing is put back into it."""

    own: Problem | None = None
    layers: Sequence[Overlay] = field(default_factory=tuple)

    def _own(self) -> tuple[Problem, list[Overlay]]:
        assert self.own is not None
        self.maximize = self.own.maximize
        lower, upper = self.own.lower.copy(), self.own.upper.copy()
        result = []
        for layer in self.layers:
            # What was known of the outputs holds for the network, not for the twin; what the user asks for stays.
            known = embedded_block(self.embeddings, layer)
            assert layer.outputs is not None
            places, block = self.own.position(layer.outputs), layer.block
            free_low = lower[places] <= known.lower[known.outputs]
            free_high = upper[places] >= known.upper[known.outputs]
            lower[places[free_low]] = block.lower[block.outputs[free_low]]
            upper[places[free_high]] = block.upper[block.outputs[free_high]]
            result.append(replace(layer, embedding=replace(layer.embedding)))
        return replace(self.own, lower=lower, upper=upper), result

    def _report(self, problem: Problem, solution: Solution, backend: Backend) -> Result:
        bound = solution.bound
        return Result(solution.status, solution.objective, bound, point=solution.x, nodes=solution.nodes)


def embedded_block(embeddings: Sequence[Any], layer: Overlay) -> Any:
    """Return the block of the network that a twin stands for."""
    return next(e.block for e in embeddings if e.attached is layer.embedding.attached)


def either(first: Callable[[], bool], second: Callable[[], bool]) -> Callable[[], bool]:
    """Return a question that is yes where one of two is."""
    return lambda: first() or second()


def outputs_are_free(own: Problem, layer: Overlay, layers: Sequence[Overlay]) -> bool:
    """Return whether the user's model uses a network's outputs in a linear objective only."""
    assert layer.outputs is not None
    places: Index = own.position(layer.outputs)
    block = layer.block
    if (own.lower[places] > block.lower[block.outputs]).any() or (own.upper[places] < block.upper[block.outputs]).any():
        return False
    used = np.zeros(own.n_columns, dtype=bool)
    used[own.matrix.indices] = True
    for rule in own.indicators:
        used[rule.matrix.indices] = True
        used[rule.binary] = True
    for sets in (*own.sos1, *own.complementarities, *own.relus):
        used[sets.ravel()] = True
    if own.quadratic is not None:
        used[np.concatenate(own.quadratic.nonzero())] = True
    for other in layers:
        used[own.position(other.inputs.labels)] = True
    return not (used[places] | own.integer[places]).any()
