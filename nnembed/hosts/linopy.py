"""The linopy host: plain `linopy.Model` and everything derived from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from nnembed.aliases import Array
from nnembed.errors import Unavailable
from nnembed.features import Feature
from nnembed.hosts.shapes import Spec, entry_name, refuse_features

if TYPE_CHECKING:
    from nnembed.block import Block
    from nnembed.problem import InputMap, Problem
    from nnembed.protocols import Attached, Solution


@dataclass(frozen=True)
class LinopyHost:
    """Puts networks into linopy models.

    Parameters
    ----------
    route : "auto", "frozen" or "public"
        How attached rows are handed over: as frozen CSR arrays, or padded through linopy's public calls; "auto" takes
        the first where the installed linopy has what it needs.
    solver : str or None
        The solver, under linopy's name, that the models will be solved with; it decides whether sets and indicator rows
        are attached as such. None is for any solver.
    """

    route: Literal["auto", "frozen", "public"] = "auto"
    solver: str | None = None
    name = "linopy"
    summary = "linopy models: attach as ordinary rows, or declare and solve with nnembed"
    accepts = Feature.LINEAR | Feature.INTEGER

    def __post_init__(self) -> None:
        """Find out what linopy passes on to the solver."""
        if self.solver is not None:
            from nnembed.hosts.linopy_special import passed_on

            object.__setattr__(self, "accepts", passed_on(self.solver))

    def serving(self, solver: str) -> LinopyHost:
        """Return this host for models that will be solved with one solver.

        Raises
        ------
        UnknownName
            If linopy has no such solver.
        """
        return replace(self, solver=solver)

    def owns(self, model: object) -> bool:
        """Return whether `model` is a linopy model; looks at the names of its types only."""
        return any(t.__name__ == "Model" and t.__module__.split(".")[0] == "linopy" for t in type(model).__mro__)

    def parse(self, model: Any, specs: Sequence[Spec], x: Any) -> InputMap:
        """Return the user's `x` as an affine map of the model's variables.

        Parameters
        ----------
        model : linopy.Model
        specs : sequence of TensorSpec
            The network's inputs.
        x : variable, expression, xarray, pandas or numpy array, number, list of them, or dict by input name
            Last axis (or the input's own shape) are features; axes before are batch. Pieces of a list are joined
            along the features and broadcast over batch axes by dimension name and coordinate; a piece with batch
            axes only is one feature.

        Raises
        ------
        InputError
            If sizes, dimensions or coordinates do not fit, an input is masked, or an expression is quadratic.
        WrongModel
            If a variable belongs to another model.
        """
        from nnembed.hosts.linopy_input import parse

        return parse(model, specs, x)

    def input_box(self, model: Any, inputs: InputMap) -> tuple[Array, Array]:
        """Return lower and upper bounds of the input entries, from the variables' bounds as they are now."""
        from nnembed.hosts.linopy_bounds import variable_bounds

        return inputs.box(*variable_bounds(model, inputs.labels))

    def describe_entry(self, model: Any, inputs: InputMap, i: int) -> str:
        """Return the user's words for an input entry, for example ``price[store=Rome, product=A]``."""
        from nnembed.hosts.linopy_bounds import variable_name

        return entry_name(inputs, i, lambda label: variable_name(model, label))

    def attach(self, model: Any, block: Block, inputs: InputMap, outputs: Sequence[Spec], name: str) -> Attached:
        """Write the block into the model.

        The outputs become the variable `name` (``name.output`` for several); inner columns one variable per layer and
        role. On an error the model is as before.

        Raises
        ------
        UnsupportedFeature
            If the block has sets or indicator rows and no solver that takes them was named.
        InputError
            If the name is taken.
        """
        from nnembed.hosts.linopy_attach import attach
        from nnembed.hosts.linopy_csr import frozen_possible

        who = "a linopy model" if self.solver is None else f"a linopy model for {self.solver}"
        refuse_features(block.needs, self.accepts, who)
        possible = self.route != "public" and frozen_possible(model)
        if self.route == "frozen" and not possible:
            raise Unavailable('this linopy has no frozen rows for this model; use route="public"')
        return attach(model, block, inputs, outputs, name, frozen=possible)

    def declare(
        self, model: Any, bounds: tuple[Array, Array], inputs: InputMap, outputs: Sequence[Spec], name: str
    ) -> Attached:
        """Add output variables and a guard that makes the model infeasible without the network."""
        from nnembed.hosts.linopy_attach import declare

        return declare(model, bounds, inputs, outputs, name)

    def rebound(self, model: Any, attached: Attached, old: tuple[Array, Array], new: tuple[Array, Array]) -> None:
        """Give declared outputs new bounds where the model still has the old ones."""
        from nnembed.hosts.linopy_bounds import change_bounds

        change_bounds(model, attached.output_labels, old, new)

    def compile(self, model: Any) -> Problem:
        """Return the user's rows as arrays, guards of declared networks left out.

        Raises
        ------
        UnsupportedFeature
            If the model has SOS2 sets or semi-continuous variables; names them.
        InputError
            If the model is a copy or was reloaded, and its declared networks did not come along.
        """
        from nnembed.hosts.linopy_compile import compile_model

        return compile_model(model)

    def load(self, model: Any, problem: Problem, solution: Solution) -> Any:
        """Put values (and duals, where given) into the model; return an xarray.Dataset, None without a point."""
        from nnembed.hosts.linopy_compile import load_solution

        return load_solution(model, problem, solution)

    def solution_of(self, model: Any, inputs: InputMap, attached: Attached) -> tuple[Array, Array]:
        """Return inputs and outputs of a network at the model's present solution, flat in block order.

        Raises
        ------
        InputError
            If the model has no solution.
        """
        from nnembed.hosts.linopy_compile import solution_at

        x = solution_at(model, inputs.labels)
        return inputs.matrix @ x + inputs.constant, solution_at(model, attached.output_labels)
