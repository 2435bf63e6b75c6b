"""Solve a model with networks in it: compile, overlay, start, solve, recover, certify."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from nnembed.block import Block
from nnembed.certificate import Certificate, certify, names, relative_gap
from nnembed.embedding import Embedding, embeddings_of, emit_block, make_plan
from nnembed.engine.bilinear import Refinement
from nnembed.engine.choose import choose_backend, held
from nnembed.engine.cuts import asks, cuts_of, strengthened
from nnembed.engine.dual_side import DualSide
from nnembed.engine.embed import derive_bounds, find_host, tell_block
from nnembed.engine.explain import explain
from nnembed.engine.inject import Beside
from nnembed.engine.interrupt import stop_on_interrupt
from nnembed.engine.lower import chain_to_come, lower_for
from nnembed.engine.narrowed import ForThisSolve
from nnembed.engine.pushed import eased
from nnembed.engine.recover import better_of, credible, repaired, trivial_bound
from nnembed.engine.split import Splitting
from nnembed.engine.start import StartSearch, better, chosen_heuristics, is_plan, offer
from nnembed.engine.units import loaded, objective_size
from nnembed.errors import InputError
from nnembed.events import Event, HeuristicFinished, Incumbent, Solved
from nnembed.features import Capability, missing
from nnembed.heuristics.scene import Point
from nnembed.hooks.manager import Registry, registry
from nnembed.keywords import explicit
from nnembed.options import Clock, Options
from nnembed.problem import Overlay, Problem, overlay, placed
from nnembed.protocols import Backend, Host, Session, Solution
from nnembed.result import HistoryEntry, Result


@explicit
def solve(
    model: Any,
    *,
    backend: Any = "auto",
    formulation: Any = None,
    bounds: Any = None,
    heuristics: Any = "auto",
    start: Any = None,
    time_limit: float | None = None,
    gap: float = 1e-4,
    threads: int = 1,
    seed: int = 0,
    executor: Executor | None = None,
    progress: bool | None = None,
    tolerance: float = 1e-5,
    solver_options: Mapping[str, Any] | None = None,
    isolated: bool = False,
    surrogate: Any = None,
    target: float | None = None,
) -> Result:
    """Solve a user's model together with the networks embedded in it.

    The model's own rows are compiled to arrays, blocks of networks that are not attached are laid over them, and the
    solver is given both and a starting point from forward passes. Values are put back into the model.

    Parameters
    ----------
    model : linopy.Model, nnembed.Model or nnembed.ArrayModel
    backend : str or Backend
        ``"auto"`` is HiGHS; ``"none"`` asks no solver: the answer is what heuristics find, with a proven bound.
    formulation, bounds : as in `embed`, or None
        None keeps what each embedding was made with; otherwise it applies to every embedding that is not attached.
    heuristics : str or tuple of str
        ``"auto"``, ``"none"`` or names.
    start : Result, array over the model's variables, "auto" or None
        A point to start from; one that breaks rows is moved to a feasible point near it. "auto" and None leave it to
        the heuristics.
    time_limit : float or None
        Wall-clock seconds for the whole call; 0 returns at once with what is known.
    gap : float
        Relative gap at which the solver may stop.
    threads, seed : int
    executor : Executor or None
        Where work that splits is run.
    progress : bool or None
        Show progress; None means when the terminal is interactive.
    tolerance : float
        Residual that the certificate accepts, relative to ``1 + |y|``.
    solver_options : mapping or None
        Passed to the solver as they are.
    isolated : bool
        Run the solver in a process of its own, which costs about half a second: a solver that crashes, hangs or runs
        out of memory then gives status "error" with the best point and bound it had told.
    surrogate : str, Surrogate or None
        Search on sparser twins of the networks, for example ``"magnitude:0.5"``, and evaluate every point found on the
        networks themselves; the answer and its bound are the networks' own, see `nnembed.surrogate`.
    target : float or None
        Stop at the first point whose objective is at least this good.

    Returns
    -------
    Result
        Ctrl-C returns the best known answer with status "interrupted".

    Raises
    ------
    InputError, BoxError
        If the model or an option does not fit.
    UnsupportedFeature
        If the solver cannot take the model.
    Unavailable
        If the solver is not installed.
    """
    options = Options(
        backend, "auto", "auto", heuristics, start, time_limit, gap, threads, seed, executor, progress, tolerance,
        solver_options or {}, isolated, surrogate, target,
    )  # fmt: skip
    return run_of(model, options, formulation, bounds).result()


def run_of(
    model: Any, options: Options, formulation: Any = None, bounds: Any = None, clock: Clock | None = None
) -> Run:
    """Return the run that the options ask for; a clock that runs already says what was spent before."""
    if options.surrogate is None:
        return Run(model, options, formulation, bounds, begun=clock)
    from nnembed.engine.passing import SurrogateRun

    return SurrogateRun(model, options, formulation, bounds, begun=clock)


@dataclass(eq=False)
class Run:
    """One solve: the state that its phases share."""

    model: Any
    options: Options
    formulation: Any = None
    bounds: Any = None
    history: list[HistoryEntry] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    maximize: bool = False
    reached: bool = False  # the target
    begun: Clock | None = None  # None starts one

    def __post_init__(self) -> None:
        """Start the clock and find host and parts."""
        self.clock: Clock = self.begun or self.options.budget.start()
        if self.begun is not None:
            self.phases["embed"] = self.begun.elapsed
        self.registry: Registry = registry()
        self.host: Host = find_host(self.model, self.registry)
        holders = getattr(self.host, "holders", lambda model: [model])  # hosts whose models have models inside
        self.embeddings = [e for holder in holders(self.model) for e in embeddings_of(holder).values()]
        self.heuristics = chosen_heuristics(self.options.heuristics, self.registry)
        self.rows = ForThisSolve(self.registry, self.options, self.clock, self.formulation, self.bounds)

    def result(self) -> Result:
        """Run all phases."""
        try:
            return self._result()
        finally:
            self.rows.restore()

    def _result(self) -> Result:
        from nnembed.report.progress import show

        title = ", ".join(e.name for e in self.embeddings) or "model"
        with stop_on_interrupt() as asked, show(self.options.progress, title) as draw:

            def on_event(event: Event) -> None:
                self._remember(event)
                draw(event)
                self.registry.notify(event)

            return self.run(on_event, lambda: asked() or self.reached)

    def run(self, on_event: Callable[[Event], None], stopped: Callable[[], bool]) -> Result:
        """Run all phases, telling `on_event` and asking `stopped`."""
        stated, own, layers = self._phase("compile", self._problem)
        with held(choose_backend(stated, self.options, self.registry)) as backend:
            problem = self._phase("compile", lambda: lower_for(stated, own, layers, backend, self.registry))
            solution = self.solution(problem, backend, on_event, stopped)
            if self.reached and solution.status == "interrupted":
                solution = replace(solution, status="feasible", message="stopped at the target")
            on_event(Solved(self.clock.elapsed, solution.status, solution.objective, solution.bound))
            return self._report(problem, solution, backend)

    def solution(
        self, problem: Problem, backend: Backend, on_event: Callable[[Event], None], stopped: Callable[[], bool]
    ) -> Solution:
        """Search a first point, and solve."""
        search = StartSearch(problem, backend, self.heuristics, self.options, self.clock, on_event, stopped)
        point = self._phase("start", search.run)
        solution, point, lower = self._phase("split", lambda: self._split(problem, point, on_event, stopped))
        if solution is not None:
            return solution  # proved without the solver
        products = bool(missing(problem.needs, backend.accepts))  # nothing else can be missing here
        if search.named or not products:
            point = self._phase("heuristics", lambda: search.deepen(point))
        dual = DualSide(problem, stopped, self.options, self.clock, lower)
        solution = self._phase("bound", lambda: dual.before(point))
        if solution is not None:
            return solution
        if products:
            refinement = Refinement(problem, backend, self.options, self.clock, on_event, stopped)
            solution = self._phase("solve", lambda: refinement.run(point))
        else:
            solution = self._direct(search, point)
        solution = credible(problem, solution)
        return self._phase("bound", lambda: dual.after(solution))

    # ---- phases -------------------------------------------------------------------------------

    def _split(
        self, problem: Problem, point: Point | None, on_event: Callable[[Event], None], stopped: Callable[[], bool]
    ) -> tuple[Solution | None, Point | None, float]:
        """Try to prove the optimum over the boxes of few decisions, unless the caller wants a certain formulation.

        Also returns the best point and the bound that is proved, in minimisation form without the offset.
        """
        chosen = (e.formulation if self.formulation is None else self.formulation for e in self.embeddings)
        if not self.heuristics or self.options.solver_options or any(c != "auto" for c in chosen):
            return None, point, -math.inf
        splitting = Splitting(problem, self.options, self.clock, on_event, stopped, point)
        solution, found = splitting.run()
        known = found is not None and (point is None or not is_plan(point) or better(problem, found, point))
        return solution, found if known else point, splitting.lower

    def _direct(self, search: StartSearch, point: Point | None) -> Solution:
        """Hand the problem over as it is, solve it, and make the answer follow the networks exactly."""
        problem, backend, stopped = search.problem, search.backend, search.stopped
        strong = self._phase("cuts", lambda: strengthened(problem, backend, self.options, self.clock, stopped))
        left = None if self.options.time_limit is None else self.clock.remaining
        helpers = search.beside
        options = replace(self.options, time_limit=left, threads=max(1, self.options.threads - bool(helpers)))
        with self._phase("hand-over", lambda: loaded(backend, eased(strong), options)) as session:
            start = point if Capability.MIP_START in backend.capabilities else None
            if asks(problem, backend) and (cuts := cuts_of(problem)):
                session.separate(cuts)
            with Beside(helpers, search, point, session) as beside:
                solution = self._phase("solve", lambda: run_session(session, start, beside.heard, beside.stopped))
            if solution.duals is not None:
                solution = replace(solution, duals=solution.duals[: problem.n_rows])
            for known in (point, beside.best):
                solution = better_of(problem, solution, known)
            return self._phase("recover", lambda: repaired(problem, solution, session, self.options))

    def _phase(self, name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        try:
            return work()
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - started

    def _remember(self, event: Event) -> None:
        """Keep who found what, and when, in seconds of the whole call."""
        now = self.clock.elapsed
        if isinstance(event, Incumbent):
            self.history.append(HistoryEntry(now, event.objective, event.bound, event.source))
        elif isinstance(event, HeuristicFinished) and event.objective is not None:
            self.history.append(HistoryEntry(now, event.objective, None, event.name))
        else:
            return
        if self.options.target is not None and event.objective is not None:
            sign = -1.0 if self.maximize else 1.0
            self.reached |= sign * event.objective <= sign * self.options.target

    def _problem(self) -> tuple[Problem, Problem, list[Overlay]]:
        """Return the model with its networks, without those that are not attached, and these; written for its rows."""
        own, layers = self._own()
        own, layers = self.rows.narrow(own, layers)
        return overlay(own, layers), own, layers

    def _own(self) -> tuple[Problem, list[Overlay]]:
        """Return the model without the networks that are not attached, and these."""
        for embedding in self.embeddings:
            self._refresh(embedding)
        for embedding in self.embeddings * (len(self.embeddings) - 1):
            if embedding.is_stale():  # it reads an output that was widened after its turn
                self._refresh(embedding)
        compiled = self.host.compile(self.model)
        layers = [
            Overlay(e, e.name, e.block, e.inputs, e.attached.output_labels)
            for e in self.embeddings
            if not e.is_attached
        ]
        inside = [
            placed(e, e.block, compiled.position(e.attached.labels), e.inputs, compiled)
            for e in self.embeddings
            if e.attached.labels is not None
        ]
        self.maximize = compiled.maximize
        return replace(compiled, placements=tuple(inside)), layers

    def _refresh(self, embedding: Embedding) -> None:
        """Derive bounds and block again where the model's box has grown or other choices were made for this solve."""
        stale = embedding.is_stale()
        if embedding.is_attached:
            if stale:
                raise InputError(
                    f"the bounds of an input of {embedding.name!r} were widened after it was attached, its rows no "
                    "longer hold; call remove() on the embedding and embed again"
                )
            return
        if not stale and self.formulation is None and self.bounds is None:
            return
        formulation = embedding.formulation if self.formulation is None else self.formulation
        bounds = embedding.methods if self.bounds is None else self.bounds
        embedding.bounds = derive_bounds(
            self.host, self.model, embedding.network, embedding.inputs, bounds, self.options.budget, self.registry
        )
        accepts = self.host.accepts
        embedding.plan, parts = make_plan(
            embedding.network, embedding.bounds, formulation, accepts, self.registry, self.options, embedding.name
        )
        before, embedding.block = embedding.block, emit_block(embedding.network, embedding.bounds, parts)
        self._rebound(embedding, before)
        embedding.plan = replace(
            embedding.plan, chain=chain_to_come(embedding.block.needs), stable=embedding.block.presolved
        )
        tell_block(self.registry, embedding.name, embedding.block, self.clock.elapsed)

    def _rebound(self, embedding: Embedding, before: Block) -> None:
        """Give declared outputs the bounds of the new block, so that the old ones do not cut off answers."""
        old, new = ((b.lower[b.outputs], b.upper[b.outputs]) for b in (before, embedding.block))
        if (old[0] == new[0]).all() and (old[1] == new[1]).all():
            return
        change = getattr(self.host, "rebound", None)
        if change is not None:
            change(self.model, embedding.attached, old, new)
        elif (new[0] < old[0]).any() or (new[1] > old[1]).any():
            raise InputError(
                f"the bounds of an input of {embedding.name!r} were widened after it was embedded, and host "
                f"{self.host.name!r} cannot widen its outputs; call remove() on the embedding and embed again"
            )

    def _report(self, problem: Problem, solution: Solution, backend: Backend) -> Result:
        bound = solution.bound if solution.bound is not None else trivial_bound(problem)
        if solution.status in ("infeasible", "unbounded"):
            bound = None
        x = solution.x
        gap = relative_gap(solution.objective, bound, objective_size(problem)) if x is not None else None
        certificate: Certificate | None = None
        if x is not None:
            certificate = self._phase("certify", lambda: certify(problem, x, bound, gap, self.options.tolerance))
        if x is not None and problem.placements and not all(p.block.exact for p in problem.placements):
            message = "a relaxation was solved: only the bound is an answer"
        else:
            asked = self.rows.without_rows(problem, backend) if solution.status == "infeasible" else problem
            message = explain(asked, solution, backend, self.options)
            if certificate is not None and not certificate.ok and solution.status == "optimal":
                solution = replace(solution, status="feasible")
                message = f"the bound is proven, but the point fails its certificate: {names(certificate.checks)}"
        values = self.host.load(self.model, problem, solution)  # without a point it clears the model's old values
        if x is not None and solution.bound is not None:
            self.history.append(HistoryEntry(self.clock.elapsed, solution.objective, solution.bound, backend.name))
        return Result(
            status=solution.status,
            objective=solution.objective,
            bound=bound,
            gap=gap,
            values=values,
            certificate=certificate,
            history=honest(self.history, bound, problem.maximize),
            plan=tuple(e.plan for e in self.embeddings),
            nodes=solution.nodes,
            seconds=self.clock.elapsed,
            message=message,
            phases=dict(self.phases),
            point=x,
        )


def honest(history: Sequence[HistoryEntry], bound: float | None, maximize: bool) -> tuple[HistoryEntry, ...]:
    """Drop bounds that were reported on the way but are stronger than the final, proven one."""
    if bound is None:
        return tuple(history)
    sign = -1.0 if maximize else 1.0
    edge = sign * bound + 1e-9 * (1 + abs(bound))
    return tuple(h if h.bound is None or sign * h.bound <= edge else replace(h, bound=None) for h in history)


def run_session(
    session: Session, point: Point | None, on_event: Callable[[Event], None], stopped: Callable[[], bool]
) -> Solution:
    """Offer the start and solve."""
    if stopped():
        return Solution("interrupted")
    if point is not None:
        offer(session, point)
    return session.solve(on_event, stopped)
