"""The extension points. An object that has these attributes and methods is a plugin's contribution.

Formulation, BoundTightener, Backend and Host are stable; OpReader, Lowering, Surrogate and Heuristic are provisional
until two independent plugins use each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from nnembed.aliases import Array, Index
from nnembed.features import Availability, Capability, Feature

if TYPE_CHECKING:
    import typer

    from nnembed.block import Block
    from nnembed.bounds.box import Bounds
    from nnembed.builder import BlockBuilder
    from nnembed.events import Event
    from nnembed.ir.network import Network, TensorSpec
    from nnembed.ir.nodes import Node
    from nnembed.options import Budget, Options
    from nnembed.problem import InputMap, Problem


class Named(Protocol):
    """What every contribution carries: a unique name and one sentence for `nnembed plugins`."""

    @property
    def name(self) -> str:
        """Unique name."""
        ...

    @property
    def summary(self) -> str:
        """One sentence."""
        ...


@runtime_checkable
class OpReader(Protocol):
    """Reads one ONNX operator; `since` is the first opset version it understands."""

    @property
    def domain(self) -> str:
        """Operator domain, empty for the standard one."""
        ...

    @property
    def op_type(self) -> str:
        """Operator name."""
        ...

    @property
    def since(self) -> int:
        """First opset version."""
        ...

    def read(self, node: Any, context: Any) -> Sequence[Any]:
        """Return the values of the node's outputs; see ``nnembed.readers.context``."""
        ...


class BoundTightener(Named, Protocol):
    """Narrows bounds; run in order of `cost` until the budget ends. `sound` says the result is a proof.

    Optional: ``pays(bounds)`` is asked before, and False leaves the method out.
    """

    sound: bool
    cost: int

    def tighten(self, network: Network, bounds: Bounds, budget: Budget) -> Bounds:
        """Return bounds that are nowhere wider than `bounds`."""
        ...


class Formulation(Named, Protocol):
    """Writes one activation node as columns and rows.

    Optional: ``emit_network(network, bounds, block)`` is called once per network, after `emit` has been called for all
    layers, for rows that join layers or are about the inputs.
    """

    @property
    def emits(self) -> Feature:
        """What its blocks may need of a solver."""
        ...

    @property
    def handles(self) -> frozenset[type[Node]]:
        """The node kinds it writes."""
        ...

    @property
    def exact(self) -> bool:
        """Whether it states the network and nothing more; False for relaxations."""
        ...

    @property
    def needs_finite_bounds(self) -> bool:
        """Whether it makes coefficients of bounds."""
        ...

    def emit(self, node: Node, bounds: Bounds, block: BlockBuilder) -> None:
        """Add columns and rows for `node` and define its output tensor in `block`."""
        ...


class Lowering(Named, Protocol):
    """Rewrites a block so that it no longer needs the features `removes`."""

    removes: Feature
    emits: Feature
    cost: float

    def apply(self, block: Block) -> tuple[Block, Callable[[Array], Array]]:
        """Return the new block and the map of its points back to points of the old one."""
        ...


class Surrogate(Named, Protocol):
    """Builds a smaller twin of a network; `sound` says its error bound holds on the whole box (provisional).

    The fields of a surrogate that is a dataclass are its options: users set them by name, and strings such as
    ``"magnitude:0.5,scope=global"`` do; a bare number is the field `sparsity`. A field `labels` is given the classes of
    the samples where there are any.
    """

    sound: bool

    def build(self, network: Network, bounds: Bounds, samples: Array | None, budget: Budget) -> Any:
        """Return a `nnembed.Twin` with the network's inputs and outputs.

        `bounds` has at least the inputs, which are infinite where the user gives no box; the twin's `error_bound` may
        be None, then it is found by `nnembed.surrogates.difference`.
        """
        ...


@dataclass(frozen=True)
class Solution:
    """What a solver session returns.

    Attributes
    ----------
    status : str
        "optimal", "feasible" (stopped early with a point), "infeasible", "unbounded", "time_limit" (stopped
        without a point), "interrupted" or "error".
    x : array or None
        Best point over all columns of the problem.
    objective : float or None
        Its objective as the solver states it.
    bound : float or None
        Proven bound on the objective.
    duals : array or None
        Row duals, for problems without integers.
    """

    status: str
    x: Array | None = None
    objective: float | None = None
    bound: float | None = None
    nodes: int = 0
    message: str = ""
    duals: Array | None = None
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Conflict:
    """Rows and columns (their bounds) that cannot hold together, none of which can be left out."""

    rows: Index
    columns: Index


class Session(Protocol):
    """A problem loaded into a solver; use as a context manager.

    Optional, told by the backend's capabilities: ``separate(cuts)`` before `solve` (CUTS), where ``cuts(x)`` returns
    rows (CSR over problem columns, lower, upper) that every feasible point meets and the relaxation's point `x`
    violates; ``conflict()`` after an infeasible `solve` (CONFLICT), which returns a `Conflict` or None.
    """

    def solve(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> Solution:
        """Solve; `on_event` hears of incumbents and bounds, `should_stop` is polled."""
        ...

    def set_start(self, columns: Index, values: Array, *, strong: bool = False) -> None:
        """Offer a (partial) first point; `strong` says that it is good, so that little effort goes into better ones."""
        ...

    def set_cost(self, columns: Index, cost: Array) -> None:
        """Change objective coefficients."""
        ...

    def set_bounds(self, columns: Index, lower: Array, upper: Array) -> None:
        """Change column bounds."""
        ...

    def add_rows(self, matrix: Any, lower: Array, upper: Array) -> None:
        """Append rows (CSR over problem columns)."""
        ...

    def inject(self, x: Array) -> None:
        """Offer a complete point while the solver runs."""
        ...

    def interrupt(self) -> None:
        """Ask the running solver to stop at the next chance."""
        ...

    def close(self) -> None:
        """Free the solver."""
        ...

    def __enter__(self) -> Session: ...
    def __exit__(self, *exc: object) -> None: ...


class Backend(Named, Protocol):
    """A solver."""

    accepts: Feature
    capabilities: Capability

    def available(self) -> Availability:
        """Return whether the solver can be used here, without importing more than needed."""
        ...

    def load(self, problem: Problem, options: Options) -> Session:
        """Hand the problem over."""
        ...


@dataclass(frozen=True)
class Attached:
    """What a host has put into the user's model.

    Attributes
    ----------
    outputs : object
        The outputs as variables of the host's own type (a dict by name for several outputs).
    output_labels : int array
        Their labels in the order of `Block.outputs`.
    labels : int array or None
        Labels of all block columns when rows were attached, None when only outputs were declared.
    remove : callable
        Takes everything out again.
    """

    outputs: Any
    output_labels: Index
    labels: Index | None
    remove: Callable[[], None]


class Host(Named, Protocol):
    """A modelling layer."""

    accepts: Feature

    def owns(self, model: object) -> bool:
        """Return whether `model` is of this layer; looks at the type's module name only."""
        ...

    def parse(self, model: Any, specs: Sequence[TensorSpec], x: Any) -> InputMap:
        """Return the user's `x` as an affine map of the model's variables."""
        ...

    def input_box(self, model: Any, inputs: InputMap) -> tuple[Array, Array]:
        """Return lower and upper bounds of the input entries, from the model as it is now."""
        ...

    def attach(self, model: Any, block: Block, inputs: InputMap, outputs: Sequence[TensorSpec], name: str) -> Attached:
        """Write the block into the model."""
        ...

    def declare(
        self, model: Any, bounds: tuple[Array, Array], inputs: InputMap, outputs: Sequence[TensorSpec], name: str
    ) -> Attached:
        """Add output variables only; the model must not be solvable without the network."""
        ...

    # Optional: ``rebound(model, attached, old, new)`` gives declared outputs other bounds (pairs of arrays) where the
    # model still has the old ones; ``holders(model)`` lists the objects inside a model that hold networks of their own.

    def compile(self, model: Any) -> Problem:
        """Return the user's rows as arrays (declared-only guards left out)."""
        ...

    def load(self, model: Any, problem: Problem, solution: Solution) -> Any:
        """Put values back into the model; return them in the host's own form."""
        ...


@dataclass(frozen=True, eq=False)
class Candidate:
    """A point a heuristic found: values of all network inputs, by embedding name (provisional)."""

    inputs: Mapping[str, Mapping[str, Array]]
    score: float


class Heuristic(Named, Protocol):
    """Finds good points (provisional).

    Optional: ``improve(embedded, points, budget)`` yields candidates better than the best of `points` (s, drivers),
    from there on; points that were found on sparser twins of the networks are polished with it.
    """

    requires: Capability

    def run(self, embedded: Any, session: Any, budget: Budget, rng: np.random.Generator) -> Iterator[Candidate]:
        """Yield points, each better than the last."""
        ...


@dataclass(frozen=True)
class Command:
    """A further subcommand of ``nnembed``."""

    name: str
    app: typer.Typer | Callable[..., None]
