"""Embedding: one network inside one model; its plan, bounds and block."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnembed.aliases import Array
from nnembed.block import Block, Presolved
from nnembed.bounds.box import Bounds
from nnembed.builder import BlockBuilder
from nnembed.errors import CoefficientWarning, InputError, UnknownName, UnsupportedFeature
from nnembed.features import Feature
from nnembed.ir.network import Network
from nnembed.lowerings.planner import Chain, cheapest, hopeless
from nnembed.problem import InputMap
from nnembed.reduction import Reduction, appearances, reduction
from nnembed.tables import Table

if TYPE_CHECKING:
    from nnembed.hooks.manager import Registry
    from nnembed.ir.nodes import Node
    from nnembed.options import Options
    from nnembed.protocols import Attached, Formulation, Host


_LARGE = 1e7  # coefficients above this earn a warning


@dataclass(frozen=True)
class PlanLine:
    """What was chosen for one layer, and why."""

    layer: str
    kind: str
    neurons: int
    open: int
    formulation: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The formulation of every layer; prints as a table."""

    name: str
    lines: tuple[PlanLine, ...]
    chain: str = ""  # how features that the solver or host lacks are replaced, and for whom
    stable: tuple[Presolved, ...] = ()  # what was done with stably active neurons
    parts: Mapping[str, Formulation] = field(default_factory=dict, repr=False, compare=False)

    def summary(self) -> Table:
        """Return the plan as a table."""
        stable = {s.layer: f"; {s}" for s in self.stable}
        rows = [
            (p.layer, p.kind, p.neurons, p.open, p.formulation, p.reason + stable.get(p.layer, "")) for p in self.lines
        ]
        note = f"lowered: {self.chain}" if self.chain else ""
        return Table(f"plan of {self.name}", ("layer", "kind", "neurons", "open", "formulation", "why"), rows, note)

    def __str__(self) -> str:
        """Render as plain text."""
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def make_plan(
    network: Network,
    bounds: Bounds,
    choice: Any,
    accepts: Feature,
    registry: Registry,
    options: Options,
    name: str,
    *,
    host: str = "",
) -> tuple[Plan, dict[str, Formulation]]:
    """Choose a formulation per layer.

    Parameters
    ----------
    choice : str, Formulation or mapping layer name -> either
        ``"auto"`` asks the hook; layers missing in a mapping are chosen automatically.
    accepts : Feature
        What the host takes, or solvers in general; what lowerings lead to it is taken as well.
    host : str
        Name of the host that must take the formulations; empty when any solver will do.

    Raises
    ------
    UnknownName
        For a layer or formulation that does not exist.
    UnsupportedFeature
        If a chosen formulation cannot write the layer, or emits what is not accepted even after lowerings.
    """
    layers = {node.name: node for node in network.activations}
    chosen: Mapping[str, Any] = choice if isinstance(choice, Mapping) else dict.fromkeys(layers, choice)
    for layer in chosen:
        if layer not in layers:
            raise UnknownName("layer", layer, layers)
    lines, parts = [], {}
    for layer, node in layers.items():
        wanted = chosen.get(layer, "auto")
        reason = "chosen by the caller"
        if isinstance(wanted, str) and wanted == "auto":
            wanted, reason = registry.plugins.hook.nnembed_choose_formulation(
                network=network, bounds=bounds, layer=layer, accepts=accepts, options=options
            )
        part: Formulation = registry.get("formulation", wanted)
        if type(node) not in part.handles:
            able = [n for n, f in registry.parts("formulation").items() if type(node) in f.handles]
            raise UnsupportedFeature(
                f"formulation {part.name!r} does not write {node.kind} layers ({layer!r}); choose one of {able}"
            )
        lacking = hopeless(part.emits, accepts, registry.parts("lowering").values())
        if lacking and (host or not able_solvers(part.emits, registry)):
            who = f"host {host!r}" if host else "no installed solver"
            raise UnsupportedFeature(no_way(part.name, layer, part.emits, lacking, who, accepts, registry, type(node)))
        opened = bounds.open(node)
        lines.append(PlanLine(layer, node.kind, opened.size, int(opened.sum()), part.name, reason))
        parts[layer] = part
    return Plan(name, tuple(lines), parts=parts), parts


def able_solvers(needs: Feature, registry: Registry) -> list[str]:
    """Return the names of the registered solvers that take `needs`, if need be after lowerings."""
    lowerings = tuple(registry.parts("lowering").values())
    return [n for n, b in registry.parts("backend").items() if not hopeless(needs, b.accepts, lowerings)]


def no_way(
    formulation: str,
    layer: str,
    needs: Feature,
    lacking: Sequence[str],
    who: str,
    accepts: Feature,
    registry: Registry,
    kind: type[Node],
) -> str:
    """Return the message for a formulation that `who` does not take, with what would work instead."""
    lowerings = tuple(registry.parts("lowering").values())
    forms = [
        name
        for name, form in registry.parts("formulation").items()
        if form.exact and kind in form.handles and not hopeless(form.emits, accepts, lowerings)
    ]
    ways = [f"formulation= one of {', '.join(forms)}"] if forms else []
    solvers = able_solvers(needs, registry)
    ways += [f"nnembed.solve with backend= one of {', '.join(solvers)}"] if solvers else []
    takes = "takes" if who.startswith("no ") else "does not take"
    return (
        f"formulation {formulation!r} of layer {layer!r} needs {', '.join(lacking)}, which {who} {takes} and no "
        f"lowering replaces; use {', or '.join(ways) or 'a plugin that brings a lowering'}"
    )


def lower_block(block: Block, plan: Plan, accepts: Feature, target: str, registry: Registry) -> tuple[Block, Plan]:
    """Rewrite a block by the cheapest chain of lowerings until `target` takes it, and note the chain in the plan.

    Raises
    ------
    UnsupportedFeature
        If there is no such chain.
    """
    steps = cheapest(block.needs, accepts, registry.parts("lowering").values())
    if steps is None:
        lacking = hopeless(block.needs, accepts, registry.parts("lowering").values())
        raise UnsupportedFeature(
            f"network {plan.name!r} needs {', '.join(lacking)}, which {target} does not take and no lowering replaces; "
            "choose another formulation= or solver"
        )
    chain = Chain(steps)
    return chain.apply(block)[0], replace(plan, chain=f"{chain} for {target}" if steps else "")


def emit_block(network: Network, bounds: Bounds, parts: Mapping[str, Formulation], *, stable: str = "auto") -> Block:
    """Write every layer with its formulation; warn of coefficients that solvers do not handle reliably.

    `stable` says what happens to stably active neurons, see `BlockBuilder`.
    """
    layers = {node.name: node for node in network.activations}

    counted: dict[tuple[int, object], float] = {}

    def times(layer: str) -> float:
        key = id(parts[layer]), type(layers[layer])
        if key not in counted:
            counted[key] = appearances(parts[layer], layers[layer])
        return counted[key]

    builder = BlockBuilder(network, bounds, times=times, stable=stable)
    for node in network.activations:
        parts[node.name].emit(node, bounds, builder)
    for part in {id(p): p for p in parts.values()}.values():
        couple = getattr(part, "emit_network", None)
        if couple is not None:
            couple(network, bounds, builder)
    block = builder.finish()
    large = block.largest
    if large > _LARGE:
        warnings.warn(
            f"network {network.name!r}: the largest coefficient of its rows is {large:.1e}, and solvers work with "
            f"tolerances around 1e-6; tighten the bounds of its inputs or the bounds= method, or rescale its inputs",
            CoefficientWarning,
            stacklevel=3,
        )
    return block


@dataclass(eq=False)
class Embedding:
    """A network put into a model.

    Attributes
    ----------
    name : str
        Prefix of its names in the model.
    network : Network
    outputs : object
        The outputs as variables of the host's own type (a dict by name for several outputs).
    inputs : InputMap
        What the inputs are in the model.
    bounds : Bounds
        Proven on the box that the inputs had when they were computed.
    plan : Plan
        Which formulation for which layer and why.
    block : Block
        Columns and rows.
    attached : Attached
        What was put into the user's model; ``attached.labels`` is None when only the outputs were.
    """

    name: str
    network: Network
    host: Host
    inputs: InputMap
    bounds: Bounds
    plan: Plan
    block: Block
    attached: Attached
    formulation: Any = "auto"
    methods: Any = "auto"
    _model: Any = field(default=None, repr=False)
    _reduction: tuple[Block, Reduction] | None = field(default=None, repr=False)

    @property
    def outputs(self) -> Any:
        """The outputs as variables of the host's own type."""
        return self.attached.outputs

    @property
    def model(self) -> Any:
        """The model, as long as it exists."""
        return self._model()

    @property
    def is_attached(self) -> bool:
        """Whether the rows are in the user's model."""
        return self.attached.labels is not None

    def box(self) -> tuple[Array, Array]:
        """Return the bounds of the inputs as the model has them now, in block order."""
        return self.host.input_box(self.model, self.inputs)

    def is_stale(self) -> bool:
        """Whether the model's box is no longer inside the one the bounds hold on."""
        low, high = self.box()
        first = slice(0, self.block.n_inputs)
        pad = 1e-9 * (1 + np.abs(low) + np.abs(high))
        return bool((low < self.block.lower[first] - pad).any() or (high > self.block.upper[first] + pad).any())

    def residual(self) -> float:
        """Return the largest relative difference between the model's solution and the network.

        Raises
        ------
        InputError
            If the model has no solution yet.
        """
        from nnembed.engine import residual_of

        return residual_of(self)

    def remove(self) -> None:
        """Take the network out of the model again."""
        ledger = embeddings_of(self.model)
        if ledger.get(self.name) is not self:
            raise InputError(f"the network {self.name!r} is not in this model any more")
        self.attached.remove()
        del _LEDGER[self.model][self.name]

    def reduction(self) -> Reduction:
        """Return what presolve has done with stable neurons; computed when first asked for."""
        if self._reduction is None or self._reduction[0] is not self.block:
            parts = self.plan.parts

            def emit(stable: str) -> Block:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", CoefficientWarning)
                    return emit_block(self.network, self.bounds, parts, stable=stable)

            self._reduction = self.block, reduction(self.network, self.bounds, emit)
        return self._reduction[1]

    def summary(self) -> Table:
        """Return sizes: columns, rows, binaries, nonzeros, coefficients."""
        block = self.block
        small, large = block.coefficient_range()
        rows = [
            ("points", str(block.batch)),
            ("columns", str(block.n_columns)),
            ("binaries", str(block.binaries)),
            ("rows", str(block.n_rows)),
            ("nonzeros", str(block.matrix.nnz)),
            ("coefficients", f"{small:.1e} to {large:.1e}"),
            ("unstable neurons", str(self.bounds.unstable)),
            ("presolve", str(self.reduction())),
            ("in the user's model", "yes" if self.is_attached else "outputs only"),
        ]
        return Table(f"embedding {self.name}", ("", ""), rows)

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_() + self.plan._repr_html_()

    def __repr__(self) -> str:
        """Say name, network, size."""
        sizes = f"{self.block.binaries} binaries, {self.block.n_rows} rows"
        return f"<Embedding {self.name!r} of {self.network.name}: {sizes}>"


# Which networks a model contains. The models belong to other libraries and have no place of their own for this, so the
# list is kept beside them, for as long as they live.
_LEDGER: weakref.WeakKeyDictionary[Any, dict[str, Embedding]] = weakref.WeakKeyDictionary()


def embeddings_of(model: Any) -> dict[str, Embedding]:
    """Return the embeddings of a model by name."""
    return dict(_LEDGER.get(model, {}))


def record(model: Any, embedding: Embedding) -> None:
    """Remember that `model` contains `embedding`."""
    _LEDGER.setdefault(model, {})[embedding.name] = embedding
    embedding._model = weakref.ref(model)
