"""The kit must fail parts that are wrong: each saboteur breaks one promise, and the check that guards it says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nnembed.backends.highs import Highs, HighsSession
from nnembed.bounds.backward import Crown
from nnembed.bounds.box import Bounds, Provenance
from nnembed.builder import BlockBuilder
from nnembed.features import Availability, Capability, Feature
from nnembed.formulations.bigm import TwoRow
from nnembed.formulations.native import Native
from nnembed.formulations.triangle import Triangle
from nnembed.heuristics.forward import ForwardStart
from nnembed.hosts.arrays import ArrayHost
from nnembed.hosts.linopy import LinopyHost
from nnembed.ir.nodes import Relu, leaky_relu
from nnembed.lowerings.relu_to_bigm import ReluToBigM
from nnembed.lowerings.sos1_to_binary import Sos1ToBinary
from nnembed.options import Options
from nnembed.protocols import Candidate, Conflict
from nnembed.readers.ops.activations import _leaky_relu, _relu
from nnembed.testing import Config, run_checks
from nnembed.testing.kit import checks_for


def failures(subject: Any, *only: str) -> dict[str, str]:
    """Return check -> message of the checks that fail (only some of them, to be quick)."""
    found = {}
    if not only:
        return {o.check: o.message for o in run_checks(subject) if o.status in ("failed", "error")}
    from nnembed.testing.kit import prepared

    for check in checks_for(subject):
        if check.__name__ in only:
            try:
                check(prepared(subject), Config())
            except AssertionError as error:
                found[check.__name__] = str(error)
    return found


def caught(subject: Any, check: str, *, match: str = "") -> None:
    found = failures(subject, check)
    assert check in found, f"{check} lets {type(subject).__name__} pass"
    assert match in found[check], found[check]


# ---- formulations -----------------------------------------------------------------------------------


def shrunk(bounds: Bounds, factor: float) -> Bounds:
    """Bounds that are too narrow by a factor, around the breakpoint."""
    low = {k: v * factor if k.startswith("pre") else v for k, v in bounds.low.items()}
    high = {k: v * factor if k.startswith("pre") else v for k, v in bounds.high.items()}
    return replace(bounds, low=low, high=high)


class SmallM(TwoRow):
    """Takes M from bounds that are a tenth too small."""

    def emit(self, node, bounds, block):
        super().emit(node, shrunk(bounds, 0.9), block)


class LooseM(TwoRow):
    """Forgets the binary's upper row: the output may be anything above the network's."""

    handles = frozenset({Relu})

    def emit(self, node, bounds, block):
        super().emit(node, bounds, block)
        block._row_upper = [np.where(np.isfinite(u), u + 0.5, u) for u in block._row_upper]


class LyingEmits(TwoRow):
    """Says its blocks are linear; they have binaries."""

    emits = Feature.LINEAR


class SecretRelus(Native):
    """Says its blocks are linear; they have ReLU rows."""

    emits = Feature.LINEAR


class OnlyAbove(Native):
    """Says that the output is at least the positive part, as rows, and forgets the other side."""

    emits = Feature.LINEAR

    def emit(self, node, bounds, block):
        super().emit(node, bounds, block)
        for pairs in block._relus:
            block.add([block.unit(pairs[:, 0]).matrix, block.unit(pairs[:, 1], -1.0).matrix], 0.0, np.inf)
        block._relus.clear()


class SecretRelaxation(Triangle):
    """A relaxation that says it is exact."""

    exact = True

    def emit(self, node, bounds, block):
        super().emit(node, bounds, block)
        block.exact = True


class SilentRelaxation(Triangle):
    """A relaxation that does not mark its blocks."""

    def emit(self, node, bounds, block):
        super().emit(node, bounds, block)
        block.exact = True


class InfiniteM(TwoRow):
    """Replaces infinite bounds by a default M."""

    def emit(self, node, bounds, block):
        low = {k: np.maximum(v, -1e4) for k, v in bounds.low.items()}
        super().emit(
            node, replace(bounds, low=low, high={k: np.minimum(v, 1e4) for k, v in bounds.high.items()}), block
        )


class Forgetful(TwoRow):
    """Every run names its columns differently."""

    runs = 0

    def emit(self, node, bounds, block):
        Forgetful.runs += 1
        super().emit(replace(node, name=f"{node.name}{Forgetful.runs}"), bounds, block)


class OneName(TwoRow):
    """Gives the columns of all layers the same names."""

    def emit(self, node, bounds, block):
        super().emit(replace(node, name="layer"), bounds, block)


class FirstBoxForAll(TwoRow):
    """Uses the first point's bounds for the whole batch."""

    def emit(self, node, bounds, block: BlockBuilder):
        first = np.zeros(bounds.batch, dtype=np.intp)
        super().emit(node, bounds.repeat(first, bounds.lead), block)


@pytest.mark.parametrize(
    ("saboteur", "check", "match"),
    [
        (SmallM(), "check_forward_points_feasible", "violates"),
        (SmallM(), "check_optimum_equals_enumeration", "optimum"),
        (LooseM(), "check_fixed_inputs", "the network says"),
        (LooseM(), "check_optimum_equals_enumeration", "the network says"),
        (LyingEmits(), "check_declared_features", "INTEGER"),
        (SecretRelus(), "check_declared_features", "RELU"),
        (OnlyAbove(), "check_fixed_inputs", "the network says"),
        (OnlyAbove(), "check_optimum_equals_enumeration", "the network says"),
        (SecretRelaxation(), "check_fixed_inputs", "the network says"),
        (SilentRelaxation(), "check_declared_features", "block.exact"),
        (InfiniteM(), "check_infinite_bounds", "BoxError"),
        (Forgetful(), "check_block_is_deterministic", "names"),
        (OneName(), "check_column_names", "not unique"),
        (FirstBoxForAll(), "check_batch_equals_points", "point"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, TwoRow | Triangle | Native) else str(value)[:30],
)
def test_formulations(saboteur, check, match):
    caught(saboteur, check, match=match)


# ---- tighteners -------------------------------------------------------------------------------------


class Narrowed(Crown):
    """Cuts a hundredth off every bound of the hidden layers."""

    def tighten(self, network, bounds, budget):
        found = super().tighten(network, bounds, budget)
        width = {k: found.high[k] - found.low[k] for k in found.low}
        names = [n.output for n in network.nodes]
        low = {k: found.low[k] + 0.01 * width[k] * (k in names) for k in found.low}
        high = {k: found.high[k] - 0.01 * width[k] * (k in names) for k in found.high}
        return replace(found, low=low, high=high)


class Guessing(Crown):
    """Takes the range of a few samples for a bound."""

    def tighten(self, network, bounds, budget):
        name = network.inputs[0].name
        rng = np.random.default_rng(0)
        points = rng.uniform(bounds.low[name][0], bounds.high[name][0], (500, network.input_size))
        state = network.forward({name: points})
        low = {k: np.tile(v.min(axis=0), (bounds.batch, 1)) for k, v in state.items() if k != name}
        high = {k: np.tile(v.max(axis=0), (bounds.batch, 1)) for k, v in state.items() if k != name}
        return bounds.intersect(low, high, Provenance("guess", 0.0, 0))


class Widening(Crown):
    """Forgets what it was given."""

    def tighten(self, network, bounds, budget):
        found = super().tighten(network, bounds, budget)
        wide = {k: (v - 1.0, found.high[k] + 1.0) for k, v in found.low.items()}
        return replace(found, low={k: v[0] for k, v in wide.items()}, high={k: v[1] for k, v in wide.items()})


class Slow(Crown):
    """Ignores its budget."""

    def tighten(self, network, bounds, budget):
        import time

        time.sleep(2.4)
        return super().tighten(network, bounds, budget)


class ClaimsProof(Crown):
    """Says it proves nothing, but marks its bounds as proofs."""

    sound = False


class Restless(Crown):
    """Narrows a little more on every run."""

    def tighten(self, network, bounds, budget):
        found = super().tighten(network, bounds, budget)
        return replace(found, low={k: v + 0.01 * (found.high[k] - v) for k, v in found.low.items()})


@pytest.mark.parametrize(
    ("saboteur", "check"),
    [
        (Narrowed(), "check_samples_inside"),
        (Narrowed(), "check_encloses_enumerated_optimum"),
        (Guessing(), "check_samples_inside"),
        (Widening(), "check_never_widens"),
        (Slow(), "check_budget"),
        (ClaimsProof(), "check_history"),
        (Restless(), "check_second_run_changes_nothing"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Crown) else value,
)
def test_tighteners(saboteur, check):
    caught(saboteur, check)


# ---- readers ----------------------------------------------------------------------------------------


class WrongSlope:
    """Reads every leaky ReLU with the default slope."""

    domain, op_type, since, folds = "", "LeakyRelu", 1, False

    def read(self, node, context):
        x = context.symbol(0)
        slope = np.full(x.size, 0.01)
        return [context.apply(lambda name, source, out: leaky_relu(name, source, out, slope), x)]


class DropsOperands:
    """Reads a clip as a ReLU, whatever its limits are."""

    domain, op_type, since, folds = "", "Clip", 1, False

    def read(self, node, context):
        return _relu.read(node, context)


def test_readers():
    caught(WrongSlope(), "check_agrees_with_reference", match="instead of")
    caught(DropsOperands(), "check_agrees_with_reference", match="instead of")
    caught(DropsOperands(), "check_computed_operands", match="computed")
    assert not failures(_leaky_relu)


# ---- backends ---------------------------------------------------------------------------------------


class Twisted(Highs):
    """HiGHS with a twist to what its sessions return."""

    twist: Callable[[Any, HighsSession], Any]

    def load(self, problem, options):
        session, twist = super().load(problem, options), type(self).twist
        plain = session.solve
        session.solve = lambda on_event, stop: twist(plain(on_event, stop), session)
        return session


def twisted(function, **attributes) -> Twisted:
    return type("Twisted", (Twisted,), {"twist": staticmethod(function), **attributes})()


def wrong_bound(found, session):
    """Report the bound of a problem that is one better than it is."""
    if found.bound is None:
        return found
    return replace(found, bound=found.bound - (1.0 if session._problem.maximize else -1.0))


def loose_bound(found, session):
    return (
        found if found.bound is None else replace(found, bound=found.bound + (9 if session._problem.maximize else -9))
    )


def shifted(found, session):
    return found if found.objective is None else replace(found, objective=found.objective + 1.0)


def moved(found, session):
    return found if found.x is None else replace(found, x=found.x + 0.25)


def hopeful(found, session):
    return replace(found, status="infeasible") if found.status == "unbounded" else found


def turned_duals(found, session):
    return found if found.duals is None else replace(found, duals=-found.duals)


@pytest.mark.parametrize(
    ("twist", "check"),
    [
        (wrong_bound, "check_linear_problems"),
        (wrong_bound, "check_integer_problems"),
        (wrong_bound, "check_limits"),
        (loose_bound, "check_integer_problems"),
        (shifted, "check_linear_problems"),
        (moved, "check_integer_problems"),
        (hopeful, "check_infeasible_and_unbounded"),
        (turned_duals, "check_duals"),
    ],
)
def test_backends(twist, check):
    caught(twisted(twist), check)


def same(found, session):
    return found


class Deaf(Highs):
    """Does not stop when it is told to."""

    def load(self, problem, options):
        session = super().load(problem, replace(options, time_limit=min(options.time_limit or 9.0, 4.0)))
        plain = session.solve
        session.solve = lambda on_event, stop: plain(on_event, lambda: False)
        return session


class Stale(Highs):
    """Forgets changed bounds."""

    def load(self, problem, options):
        session = super().load(problem, options)
        session.set_bounds = lambda columns, lower, upper: None
        return session


def test_backends_are_honest():
    modest = twisted(same, capabilities=Capability.DUALS)
    for check in ("check_start", "check_injection", "check_interrupt"):
        caught(modest, check, match="UnsupportedFeature")
    caught(twisted(same, capabilities=Capability.NONE), "check_duals", match="not claimed")
    greedy = twisted(same, accepts=Highs.accepts | Feature.SOS1)
    assert failures(greedy, "check_features")
    caught(Deaf(), "check_interrupt", match="should_stop")
    caught(Stale(), "check_session_reuse", match="set_bounds")
    absent = twisted(same, available=lambda self: Availability.NOT_FOUND)
    assert {o.status for o in run_checks(absent)} == {"passed", "skipped"}


# ---- backends: conditions, cuts, conflicts, conduct -------------------------------------------------


class DropsRelus(Highs):
    """Takes ReLU rows and forgets them."""

    accepts = Highs.accepts | Feature.RELU

    def load(self, problem, options):
        return super().load(replace(problem, relus=()), options)


class Anything(Highs):
    """Names all rows and bounds as a conflict."""

    def load(self, problem, options):
        session = super().load(problem, options)
        every = Conflict(np.arange(problem.n_rows), np.arange(problem.n_columns))
        session.conflict = lambda: every
        return session


class Harmless(Highs):
    """Names rows that do not exclude each other."""

    def load(self, problem, options):
        session = super().load(problem, options)
        session.conflict = lambda: Conflict(np.arange(min(1, problem.n_rows)), np.zeros(0, dtype=np.intp))
        return session


class Cutting(Highs):
    """Claims cuts; asks for them at a point of the relaxation, `rounds` times, and does nothing with them."""

    capabilities = Highs.capabilities | Capability.CUTS
    rounds = 12

    def load(self, problem, options):
        session = super().load(problem, options)
        plain = session.solve
        session.separate = lambda cuts: setattr(session, "cuts", cuts)

        def solve(on_event, stop):
            loose = replace(problem, integer=np.zeros(problem.n_columns, dtype=bool))
            with Highs().load(loose, Options()) as relaxed:
                x = relaxed.solve(on_event, stop).x
            for _ in range(self.rounds):
                session.cuts(x)
            return plain(on_event, stop)

        session.solve = solve
        return session


class NeverAsks(Cutting):
    """Claims cuts and never asks for any."""

    rounds = 0


class SwallowsErrors(Highs):
    """Its observers' errors are lost."""

    def load(self, problem, options):
        session = super().load(problem, replace(options, time_limit=min(options.time_limit or 2.0, 1.0)))
        plain = session.solve

        def quiet(call):
            def asked(*event):
                try:
                    return call(*event)
                except ZeroDivisionError:
                    return False

            return asked

        session.solve = lambda on_event, stop: plain(quiet(on_event), quiet(stop))
        return session


class DropsPoints(Highs):
    """Throws points away that are offered to it, and has none of its own in the second search."""

    searches = 0

    def load(self, problem, options):
        DropsPoints.searches += 1
        short = options if DropsPoints.searches == 1 else replace(options, time_limit=0.0)
        session = super().load(problem, short)
        session.inject = lambda x: None
        return session


class WrongOnRelu(Highs):
    """Solves networks with every binary at one."""

    def load(self, problem, options):
        lower = np.where(problem.integer, np.maximum(problem.lower, 1.0), problem.lower)
        return super().load(replace(problem, lower=lower) if problem.placements else problem, options)


@pytest.mark.parametrize(
    ("saboteur", "check", "match"),
    [
        (DropsRelus(), "check_features", "violates"),
        (DropsRelus(), "check_networks_in_every_formulation", "native"),
        (Anything(), "check_conflict", "can be left out"),
        (Anything(), "check_no_conflict", "has a point"),
        (Harmless(), "check_conflict", "have a point"),
        (Cutting(), "check_cuts", "cuts nothing off"),
        (NeverAsks(), "check_cuts", "no cuts were asked for"),
        (twisted(same, capabilities=Highs.capabilities | Capability.CUTS), "check_claims_have_methods", "separate"),
        (twisted(same, capabilities=Capability.NONE), "check_claims_have_methods", "CONFLICT is not claimed"),
        (twisted(same, capabilities=Highs.capabilities | Capability.LAZY_ROWS), "check_claims_have_methods", "LAZY"),
        (twisted(same, accepts=Highs.accepts | Feature.QUADRATIC_ROWS), "check_claims_have_methods", "QUADRATIC_ROWS"),
        (SwallowsErrors(), "check_observer_that_fails", "lost"),
        (WrongOnRelu(), "check_networks_in_every_formulation", "two_row"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Highs) else str(value)[:40],
)
def test_backends_keep_what_they_claim(saboteur, check, match):
    caught(saboteur, check, match=match)


def test_a_point_that_is_thrown_away_is_missed():
    DropsPoints.searches = 0
    caught(DropsPoints(), "check_injected_points_are_used", match="was offered")


# ---- hosts ------------------------------------------------------------------------------------------


class LeavesRows(ArrayHost):
    """Its remove() leaves the rows in the model, emptied and without limits."""

    def attach(self, model, block, inputs, outputs, name):
        attached, owner = super().attach(model, block, inputs, outputs, name), model._names[name]
        kept = model._row_owner == owner

        def remove():
            count = int(kept.sum())
            attached.remove()
            model.add_rows(np.zeros((count, model.n_columns)), -np.inf, np.inf)

        return replace(attached, remove=remove)


class LeavesColumns(LinopyHost):
    """Its remove() leaves a variable in the model."""

    def attach(self, model, block, inputs, outputs, name):
        attached = super().attach(model, block, inputs, outputs, name)

        def remove():
            attached.remove()
            model.add_variables(lower=0, upper=1, name=f"{name}_left{len(list(model.variables))}")

        return replace(attached, remove=remove)


class NoGuard(ArrayHost):
    """A declared network can be forgotten."""

    def declare(self, model, bounds, inputs, outputs, name):
        attached = super().declare(model, bounds, inputs, outputs, name)
        model.row_lower = np.where(model._row_owner == model._names[name], -np.inf, model.row_lower)
        model._guards.discard(name)
        return attached


class DropsRow(ArrayHost):
    """Compiles the user's rows without the last one."""

    def compile(self, model):
        found = super().compile(model)
        upper = found.row_upper.copy()
        upper[-1:] = np.inf
        return replace(found, row_upper=upper)


class DropsConstant(ArrayHost):
    """Forgets the constants of expressions."""

    def parse(self, model, specs, x):
        found = super().parse(model, specs, x)
        return replace(found, constant=0 * found.constant)


class SwapsOutputs(ArrayHost):
    """Hands the outputs out in the wrong order."""

    def attach(self, model, block, inputs, outputs, name):
        attached = super().attach(model, block, inputs, outputs, name)
        return replace(attached, outputs=attached.outputs[..., ::-1])


@pytest.mark.parametrize(
    ("saboteur", "check"),
    [
        (LeavesRows(), "check_remove"),
        (LeavesColumns(), "check_remove"),
        (NoGuard(), "check_declared_is_infeasible"),
        (DropsRow(), "check_rows_of_the_user"),
        (DropsConstant(), "check_inputs"),
        (SwapsOutputs(), "check_routes_agree"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_hosts(saboteur, check):
    caught(saboteur, check)


# ---- heuristics -------------------------------------------------------------------------------------


class Outside(ForwardStart):
    """Its points violate the user's row."""

    def run(self, embedded, session, budget, rng):
        yield Candidate({"drivers": {"x": embedded.upper}}, float(embedded.point(embedded.upper).objective))


class Fractional(ForwardStart):
    """Its points are fractional where they must be whole."""

    def run(self, embedded, session, budget, rng):
        for candidate in super().run(embedded, session, budget, rng):
            x = candidate.inputs["drivers"]["x"] * 0.999
            yield Candidate({"drivers": {"x": x}}, float(embedded.sign * embedded.point(x).objective))


class Boasting(ForwardStart):
    """Its scores are better than its points."""

    def run(self, embedded, session, budget, rng):
        for candidate in super().run(embedded, session, budget, rng):
            yield replace(candidate, score=candidate.score + 1.0)


class Stuck(ForwardStart):
    """Yields its first point twice."""

    def run(self, embedded, session, budget, rng):
        first = next(super().run(embedded, session, budget, rng))
        yield first
        yield first


class OwnDice(ForwardStart):
    """Throws its own dice."""

    def run(self, embedded, session, budget, rng):
        return super().run(embedded, session, budget, np.random.default_rng())


@pytest.mark.parametrize(
    ("saboteur", "check"),
    [
        (Outside(), "check_candidates_are_feasible"),
        (Fractional(), "check_candidates_are_feasible"),
        (Boasting(), "check_candidates_are_feasible"),
        (Stuck(), "check_candidates_improve"),
        (OwnDice(), "check_same_seed_same_candidates"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_heuristics(saboteur, check):
    caught(saboteur, check)


# ---- lowerings --------------------------------------------------------------------------------------


class CutsOff(Sos1ToBinary):
    """Takes M from bounds that are too small, and cuts off the optimum."""

    def apply(self, block):
        if not block.sos1:
            return super().apply(block)
        upper = block.upper.copy()
        members = np.concatenate([s.columns.ravel() for s in block.sos1])
        upper[members] *= 0.8
        lowered, recover = super().apply(replace(block, upper=upper))
        return replace(lowered, upper=np.concatenate([block.upper, lowered.upper[block.n_columns :]])), recover


class Forgets(Sos1ToBinary):
    """Drops the sets without a replacement."""

    def apply(self, block):
        return replace(block, sos1=()), lambda x: x


class LosesTheWayBack(Sos1ToBinary):
    """Its recover() returns a point that is off."""

    def apply(self, block):
        lowered, recover = super().apply(block)
        return lowered, lambda x: recover(x) + 0.01


class LeavesSets(Sos1ToBinary):
    """Keeps the sets it says it removes."""

    def apply(self, block):
        lowered, recover = super().apply(block)
        return replace(lowered, sos1=block.sos1), recover


class HalfRelu(ReluToBigM):
    """Writes the rows of ReLU rows and loses the side that holds the output down."""

    def apply(self, block):
        lowered, recover = super().apply(block)
        new = np.arange(lowered.n_rows) >= block.n_rows
        return replace(lowered, row_upper=np.where(new, np.inf, lowered.row_upper)), recover


@pytest.mark.parametrize(
    ("saboteur", "check"),
    [
        (HalfRelu(), "check_optimum_is_kept"),
        (HalfRelu(), "check_points_come_back"),
        (CutsOff(), "check_optimum_is_kept"),
        (CutsOff(), "check_forward_points_survive"),
        (Forgets(), "check_optimum_is_kept"),
        (LosesTheWayBack(), "check_points_come_back"),
        (LosesTheWayBack(), "check_nothing_to_do"),
        (LeavesSets(), "check_features_are_removed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_lowerings(saboteur, check):
    caught(saboteur, check)


def test_a_good_part_is_not_blamed():
    for part in (TwoRow(), Native(), Crown(), ForwardStart(), Sos1ToBinary(), ReluToBigM()):
        assert not failures(part), type(part).__name__
