"""The Pyomo host: concrete models and blocks of `pyomo.environ`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nnembed.aliases import Array
from nnembed.features import Feature
from nnembed.hosts.shapes import Spec, entry_name, refuse_features

if TYPE_CHECKING:
    from nnembed.block import Block
    from nnembed.problem import InputMap, Problem
    from nnembed.protocols import Attached, Solution

_KINDS = {"BlockData", "Block"}
_MIP = Feature.LINEAR | Feature.INTEGER
#: Pyomo's interfaces that take more than any solver of mixed-integer programs; all others refuse sets.
_TAKES = {
    "scip_direct": _MIP | Feature.SOS1 | Feature.COMPLEMENTARITY,
    "scip_persistent": _MIP | Feature.SOS1 | Feature.COMPLEMENTARITY,
    "gurobi_persistent": _MIP | Feature.SOS1,
    "ipopt": Feature.LINEAR | Feature.COMPLEMENTARITY,
}


@dataclass(frozen=True)
class PyomoHost:
    """Puts networks into Pyomo models; a network is one block that can be removed.

    Parameters
    ----------
    solver : str or None
        The solver, under Pyomo's name, that the models will be solved with; None leaves sets and complementary pairs in
        the model for solvers that take them.
    """

    solver: str | None = None
    name = "pyomo"
    summary = "Pyomo models and blocks: attach as one block, or declare and solve with nnembed"
    accepts = Feature.LINEAR | Feature.INTEGER | Feature.SOS1 | Feature.COMPLEMENTARITY

    def __post_init__(self) -> None:
        """Find out what the solver takes."""
        if self.solver is not None:
            object.__setattr__(self, "accepts", _TAKES.get(self.solver, _MIP))

    def serving(self, solver: str) -> PyomoHost:
        """Return this host for models that will be solved with one solver."""
        return replace(self, solver=solver)

    def owns(self, model: object) -> bool:
        """Return whether `model` is a Pyomo model or block; looks at the names of its types only."""
        return any(t.__module__ == "pyomo.core.base.block" and t.__name__ in _KINDS for t in type(model).__mro__)

    def holders(self, model: Any) -> list[Any]:
        """Return the model and its active blocks: the objects that networks may have been put into."""
        return list(model.block_data_objects(active=True))

    def parse(self, model: Any, specs: Sequence[Spec], x: Any) -> InputMap:
        """Return the user's `x` as an affine map of variables.

        Parameters
        ----------
        model : ConcreteModel or Block
        specs : sequence of TensorSpec
            The network's inputs.
        x : variable, linear expression, Param, number, indexed component, slice, array or list of them, or dict of them
            Last axis (or the input's own shape) are features; axes before are batch. An indexed component has one axis
            per dimension of its index, which must be a full product. A list that holds indexed components is joined
            along the features; without a feature axis a component is one feature.

        Raises
        ------
        InputError
            If sizes or batch indices do not fit, or an expression is not linear.
        WrongModel
            If a variable belongs to another model, or to none.
        """
        from nnembed.hosts.pyomo_input import parse

        return parse(model, specs, x)

    def input_box(self, model: Any, inputs: InputMap) -> tuple[Array, Array]:
        """Return lower and upper bounds of the input entries, from bounds, domains and fixed values as they are now.

        Raises
        ------
        InputError
            If a Param or named expression among the inputs has changed since the network was embedded.
        """
        from nnembed.hosts.pyomo_input import refuse_changed
        from nnembed.hosts.pyomo_variables import bounds_of

        refuse_changed(inputs)
        lower, upper, _ = bounds_of(inputs.axes.variables)
        return inputs.box(lower, upper)

    def describe_entry(self, model: Any, inputs: InputMap, i: int) -> str:
        """Return the user's words for an input entry, for example ``price[Rome]``."""
        names = dict(zip(inputs.labels.tolist(), (v.name for v in inputs.axes.variables), strict=True))
        return entry_name(inputs, i, names.__getitem__)

    def attach(self, model: Any, block: Block, inputs: InputMap, outputs: Sequence[Spec], name: str) -> Attached:
        """Write the block into the model as one Pyomo block.

        The outputs are its variable ``outputs`` (one variable per output for several), indexed by the batch and the
        output's own axes; inner columns are ``<layer>.<role>``, rows ``rows[i]``. On an error the model is as before.

        Raises
        ------
        UnsupportedFeature
            If the block has indicator rows.
        InputError
            If the name is taken.
        """
        from nnembed.hosts.pyomo_attach import attach

        who = "a Pyomo model" if self.solver is None else f"a Pyomo model for {self.solver}"
        refuse_features(block.needs, self.accepts, who)
        return attach(model, block, inputs, outputs, name)

    def declare(
        self, model: Any, bounds: tuple[Array, Array], inputs: InputMap, outputs: Sequence[Spec], name: str
    ) -> Attached:
        """Add a block with output variables and a guard that makes the model infeasible without the network."""
        from nnembed.hosts.pyomo_attach import declare

        return declare(model, bounds, inputs, outputs, name)

    def rebound(self, model: Any, attached: Attached, old: tuple[Array, Array], new: tuple[Array, Array]) -> None:
        """Give declared outputs new bounds where the model still has the old ones."""
        from nnembed.hosts.pyomo_variables import change_bounds

        change_bounds(attached.output_labels, old, new)

    def compile(self, model: Any) -> Problem:
        """Return the user's active rows as arrays, guards of declared networks left out.

        Raises
        ------
        UnsupportedFeature
            If a row is not linear, or a component has no counterpart in a MILP; names it.
        InputError
            If there is not exactly one active objective, a number is missing, or a network did not come along.
        """
        from nnembed.hosts.pyomo_compile import compile_model

        return compile_model(model)

    def load(self, model: Any, problem: Problem, solution: Solution) -> Any:
        """Put values (and duals into the Suffix `dual`) into the model.

        Returns
        -------
        ComponentMap or None
            Variable -> value; None without a point. The values of the variables are then kept, but marked stale.
        """
        from nnembed.hosts.pyomo_compile import load_solution

        return load_solution(model, problem, solution)

    def solution_of(self, model: Any, inputs: InputMap, attached: Attached) -> tuple[Array, Array]:
        """Return inputs and outputs of a network at the model's present values, flat in block order.

        Raises
        ------
        InputError
            If a variable has no value, or a Param among the inputs has changed.
        """
        from nnembed.hosts.pyomo_compile import values_of
        from nnembed.hosts.pyomo_input import refuse_changed
        from nnembed.hosts.pyomo_variables import variables_of

        refuse_changed(inputs)
        x = values_of(inputs.axes.variables)
        return inputs.matrix @ x + inputs.constant, values_of(variables_of(attached.output_labels))
