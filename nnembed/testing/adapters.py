"""How the kit builds and solves models of a host: one small adapter per modelling layer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from nnembed.aliases import Array
from nnembed.errors import InputError
from nnembed.protocols import Host

Terms = Sequence[tuple[Any, Any]]


class HostAdapter(Protocol):
    """What the checks of a host need to know of its modelling layer; write one to test a host of your own.

    `x` below is whatever `variables` returned, or the outputs of an embedding; a term is a pair of it and coefficients
    of its shape.
    """

    host: Host
    name: str

    def model(self) -> Any:
        """Return an empty model."""
        ...

    def variables(self, model: Any, lower: Array, upper: Array, name: str, *, integer: bool = False) -> Any:
        """Add variables in the shape of the bounds; return them as `nnembed.embed` takes them."""
        ...

    def expressions(self, model: Any, x: Any, matrix: Array, constant: Array) -> Any:
        """Return the entries of ``matrix @ x + constant`` as `nnembed.embed` takes them; x has shape (n,)."""
        ...

    def numbers(self, model: Any, values: Array) -> Any:
        """Return numbers as `nnembed.embed` takes them."""
        ...

    def set_bounds(self, model: Any, x: Any, lower: Array, upper: Array) -> None:
        """Change the bounds of variables."""
        ...

    def add_row(self, model: Any, terms: Terms, upper: float, name: str) -> None:
        """Add the row ``sum of terms <= upper``."""
        ...

    def objective(self, model: Any, terms: Terms, *, maximize: bool) -> None:
        """Set the objective, replacing the old one."""
        ...

    def solve(self, model: Any) -> bool:
        """Solve to optimality with the layer's own means; False if it finds the model infeasible.

        An `NnembedError` or the layer's own refusal is passed on.
        """
        ...

    def values(self, model: Any, x: Any) -> Array:
        """Return the values of variables after a solve, in their shape."""
        ...

    def size(self, model: Any) -> tuple[int, ...]:
        """Return counts of everything a network may add: variables, rows, other components."""
        ...

    def text(self, model: Any) -> str:
        """Return the model as text with names."""
        ...


def adapter_for(host: Host) -> HostAdapter:
    """Return the adapter of a host nnembed brings along.

    Raises
    ------
    InputError
        If there is none.
    """
    adapters: dict[str, Any] = {"arrays": ArrayAdapter, "linopy": LinopyAdapter, "pyomo": PyomoAdapter}
    if host.name not in adapters:
        raise InputError(
            f"the kit has no adapter for host {host.name!r}; pass an object like nnembed.testing.HostAdapter"
        )
    made: HostAdapter = adapters[host.name](host)
    return made


class ArrayAdapter:
    """Raw arrays; solved by `scipy.optimize.milp`."""

    name = "arrays"

    def __init__(self, host: Host):
        self.host = host

    def model(self) -> Any:
        """Return a model without columns."""
        from nnembed.hosts.arrays import ArrayModel

        return ArrayModel(np.zeros(0), np.zeros(0))

    def variables(self, model: Any, lower: Array, upper: Array, name: str, *, integer: bool = False) -> Any:
        """Add columns."""
        return model.add_columns(np.ravel(lower), np.ravel(upper), integer=integer).reshape(np.shape(lower))

    def expressions(self, model: Any, x: Any, matrix: Array, constant: Array) -> Any:
        """Return a pair (matrix over all columns, constant)."""
        wide = np.zeros((len(constant), model.n_columns))
        wide[:, model.positions(np.asarray(x))] = matrix
        return wide, constant

    def numbers(self, model: Any, values: Array) -> Any:
        """Return a pair with an empty matrix."""
        return sp.csr_array((np.size(values), model.n_columns)), values

    def set_bounds(self, model: Any, x: Any, lower: Array, upper: Array) -> None:
        """Change the bounds."""
        model.lower[model.positions(np.asarray(x))], model.upper[model.positions(np.asarray(x))] = lower, upper

    def add_row(self, model: Any, terms: Terms, upper: float, name: str) -> None:
        """Append a row."""
        model.add_rows(self._vector(model, terms)[None], -np.inf, upper)

    def objective(self, model: Any, terms: Terms, *, maximize: bool) -> None:
        """Set cost and sense."""
        model.cost, model.maximize = self._vector(model, terms), maximize

    def _vector(self, model: Any, terms: Terms) -> Array:
        total = np.zeros(model.n_columns)
        for x, coefficients in terms:
            np.add.at(total, model.positions(np.ravel(x)), np.broadcast_to(coefficients, np.shape(x)).ravel())
        return total

    def solve(self, model: Any) -> bool:
        """Solve with scipy's MILP solver."""
        from nnembed.testing.blocks import optimum_point

        problem = model.arrays()
        value, x = optimum_point(problem, problem.cost, maximize=problem.maximize)
        model.values = x
        return value is not None

    def values(self, model: Any, x: Any) -> Array:
        """Read the values."""
        return np.asarray(model.values[model.positions(np.ravel(x))].reshape(np.shape(x)))

    def size(self, model: Any) -> tuple[int, ...]:
        """Return columns, rows and nonzeros."""
        return model.n_columns, model.n_rows, int(model.matrix.nnz)

    def text(self, model: Any) -> str:
        """Return the arrays; columns have numbers, not names."""
        arrays = (model.matrix.toarray(), model.row_lower, model.row_upper, model.lower, model.upper, model.integer)
        return "\n".join(repr(np.asarray(a).tolist()) for a in (*arrays, model.labels))


class LinopyAdapter:
    """linopy; solved by linopy's own call of HiGHS."""

    name = "linopy"

    def __init__(self, host: Host):
        self.host = host

    def model(self) -> Any:
        """Return an empty model."""
        import linopy

        return linopy.Model()

    def variables(self, model: Any, lower: Array, upper: Array, name: str, *, integer: bool = False) -> Any:
        """Add a variable with dimensions ``point`` (batch) and ``feature``."""
        import xarray as xr

        dims = ("point", "feature")[-np.ndim(lower) :]
        bounds = [xr.DataArray(np.asarray(side, float), dims=dims) for side in (lower, upper)]
        return model.add_variables(lower=bounds[0], upper=bounds[1], name=name, integer=integer)

    def expressions(self, model: Any, x: Any, matrix: Array, constant: Array) -> Any:
        """Return a list of expressions."""
        import xarray as xr

        rows = zip(matrix, constant.tolist(), strict=True)
        return [(x * xr.DataArray(row, dims=x.dims)).sum() + shift for row, shift in rows]

    def numbers(self, model: Any, values: Array) -> Any:
        """Return the array itself."""
        return np.asarray(values, float)

    def set_bounds(self, model: Any, x: Any, lower: Array, upper: Array) -> None:
        """Change the bounds."""
        import xarray as xr

        x.update(lower=xr.DataArray(lower, dims=x.dims), upper=xr.DataArray(upper, dims=x.dims))

    def add_row(self, model: Any, terms: Terms, upper: float, name: str) -> None:
        """Add a constraint."""
        model.add_constraints(self._sum(terms) <= upper, name=name)

    def objective(self, model: Any, terms: Terms, *, maximize: bool) -> None:
        """Set the objective."""
        model.add_objective(self._sum(terms), overwrite=True, sense="max" if maximize else "min")

    def _sum(self, terms: Terms) -> Any:
        import xarray as xr

        parts = [(x * xr.DataArray(np.broadcast_to(c, x.shape), dims=x.dims)).sum() for x, c in terms]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def solve(self, model: Any) -> bool:
        """Solve with linopy's HiGHS."""
        status, _ = model.solve(solver_name="highs", io_api="direct", output_flag=False, mip_rel_gap=0.0, threads=1)
        return bool(status == "ok")

    def values(self, model: Any, x: Any) -> Array:
        """Read the values."""
        return np.asarray(x.solution.values)

    def size(self, model: Any) -> tuple[int, ...]:
        """Return variables and rows, as labels and as names."""
        return int(model.nvars), int(model.ncons), len(list(model.variables)), len(list(model.constraints))

    def text(self, model: Any) -> str:
        """Return the LP file, and the names of variables and constraints."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.lp"
            model.to_file(path, progress=False)
            return "\n".join([*model.variables, *model.constraints, path.read_text()])


class PyomoAdapter:
    """Pyomo; solved by Pyomo's own call of HiGHS."""

    name = "pyomo"

    def __init__(self, host: Host):
        self.host = host

    def model(self) -> Any:
        """Return an empty concrete model."""
        from pyomo.environ import ConcreteModel

        return ConcreteModel()

    def variables(self, model: Any, lower: Array, upper: Array, name: str, *, integer: bool = False) -> Any:
        """Add an indexed variable."""
        from pyomo.environ import Integers, Reals, Var

        lower, upper = np.asarray(lower, float), np.asarray(upper, float)

        def bounds(_: Any, *index: int) -> tuple[float | None, float | None]:
            sides = float(lower[index]), float(upper[index])
            return tuple(s if np.isfinite(s) else None for s in sides)  # type: ignore[return-value]

        sets = [range(n) for n in lower.shape]
        model.add_component(name, Var(*sets, bounds=bounds, domain=Integers if integer else Reals))
        return model.component(name)

    def expressions(self, model: Any, x: Any, matrix: Array, constant: Array) -> Any:
        """Return an array of expressions."""
        rows = zip(matrix.tolist(), constant.tolist(), strict=True)
        made = [sum(c * v for c, v in zip(row, _flat(x), strict=True)) + shift for row, shift in rows]
        array = np.empty(len(made), dtype=object)
        array[:] = made
        return array

    def numbers(self, model: Any, values: Array) -> Any:
        """Return the array itself."""
        return np.asarray(values, float)

    def set_bounds(self, model: Any, x: Any, lower: Array, upper: Array) -> None:
        """Change the bounds."""
        for v, low, high in zip(_flat(x), np.ravel(lower).tolist(), np.ravel(upper).tolist(), strict=True):
            v.setlb(low)
            v.setub(high)

    def add_row(self, model: Any, terms: Terms, upper: float, name: str) -> None:
        """Add a constraint."""
        from pyomo.environ import Constraint

        model.add_component(name, Constraint(expr=self._sum(terms) <= upper))

    def objective(self, model: Any, terms: Terms, *, maximize: bool) -> None:
        """Set the objective ``goal``."""
        from pyomo.environ import Objective
        from pyomo.environ import maximize as most
        from pyomo.environ import minimize as least

        if model.component("goal") is not None:
            model.del_component("goal")
        model.add_component("goal", Objective(expr=self._sum(terms), sense=most if maximize else least))

    def _sum(self, terms: Terms) -> Any:
        total: Any = 0
        for x, coefficients in terms:
            flat = _flat(x)
            numbers = np.broadcast_to(coefficients, np.shape(coefficients) or (len(flat),)).ravel().tolist()
            total = total + sum(c * v for c, v in zip(numbers, flat, strict=True))
        return total

    def solve(self, model: Any) -> bool:
        """Solve with Pyomo's HiGHS interface."""
        from pyomo.contrib.solver.common.results import SolutionStatus
        from pyomo.contrib.solver.solvers.highs import Highs

        solver = Highs()
        solver.config.solver_options = {"mip_rel_gap": 0.0, "threads": 1}
        solver.config.raise_exception_on_nonoptimal_result = False
        solver.config.load_solutions = False
        result = solver.solve(model)
        if result.solution_status != SolutionStatus.optimal:
            return False
        result.solution_loader.load_vars()
        return True

    def values(self, model: Any, x: Any) -> Array:
        """Read the values."""
        flat = np.array([v.value for v in _flat(x)], dtype=float)
        axes = [sorted({i if isinstance(i, tuple) else (i,) for i in x}, key=str)] if hasattr(x, "keys") else []
        sizes = [len({key[k] for key in axes[0]}) for k in range(len(axes[0][0]))] if axes else [len(flat)]
        return flat.reshape(sizes)

    def size(self, model: Any) -> tuple[int, ...]:
        """Return counts of variables, constraints, sets of type 1, blocks, and components at the top."""
        from pyomo.environ import Block, Constraint, SOSConstraint, Var

        kinds = (Var, Constraint, SOSConstraint, Block)
        counts = [sum(1 for _ in model.component_data_objects(kind, descend_into=True)) for kind in kinds]
        return (*counts, len(list(model.component_map())))

    def text(self, model: Any) -> str:
        """Return the LP file with names."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.lp"
            model.write(str(path), io_options={"symbolic_solver_labels": True})
            return path.read_text()


def _flat(x: Any) -> list[Any]:
    """Return the single variables of a Pyomo component or array of variables."""
    return list(x.values()) if hasattr(x, "values") else list(np.ravel(x))
