"""Checks of hosts: what is attached, laid over or taken out is what the user's model and the network say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import Any

import numpy as np

from nnembed.aliases import Array
from nnembed.embedding import Embedding, embeddings_of
from nnembed.engine import embed
from nnembed.engine import solve as overlay_solve
from nnembed.errors import BoxError, InputError, NnembedError
from nnembed.features import Feature
from nnembed.hooks.manager import registry
from nnembed.ir.network import Network
from nnembed.result import Result
from nnembed.testing.adapters import ArrayAdapter, HostAdapter
from nnembed.testing.enumerate import enumerate_optimum
from nnembed.testing.kit import DEFAULT, Config, Unmet, since
from nnembed.testing.networks import chain

LOW, HIGH = np.array([-1.0, -0.5]), np.array([1.0, 1.5])
WEIGHTS = np.array([1.0, -0.6])
_LIMIT = 0.4


@cache
def network(seed: int = 0) -> Network:
    """Return a network with two inputs, two outputs and five ReLUs."""
    return chain([(3, "relu"), (2, "relu"), (2, "none")], 2, np.random.default_rng(seed + 20), skip=True)


@cache
def _best(up: bool) -> float:
    return enumerate_optimum(network(), LOW, HIGH, WEIGHTS, maximize=up)


def _usable(adapter: HostAdapter) -> Any:
    """Return an empty model; skip where the modelling layer is not installed."""
    try:
        return adapter.model()
    except ImportError as error:
        raise Unmet(f"{adapter.host.name}: {error}") from None


def _embedded(adapter: HostAdapter, *, attach: bool, up: bool = True) -> tuple[Any, Any, Embedding]:
    """Return a model with inputs ``x`` and the network ``net`` on them, and the weighted outputs as objective."""
    model = _usable(adapter)
    x = adapter.variables(model, LOW, HIGH, "x")
    embedding = embed(model, network(), x, name="net", attach=attach)
    adapter.objective(model, [(embedding.outputs, WEIGHTS)], maximize=up)
    return model, x, embedding


def _close(found: float | None, want: float, what: str, config: Config) -> None:
    assert found is not None, f"{what}: no objective"
    assert abs(found - want) <= 10 * config.close(want), f"{what}: {found:.9g}, it must be {want:.9g}"


def _own(adapter: HostAdapter, model: Any, what: str) -> None:
    assert adapter.solve(model), f"{what}: the host's own solve finds no optimum"


def _overlay(model: Any, what: str) -> Result:
    """Solve with nnembed and check that the answer certifies itself."""
    result = overlay_solve(model, gap=0.0, progress=False)
    assert result.status == "optimal", f"{what}: nnembed.solve says {result.status!r}: {result.message}"
    assert result.certificate is not None and result.certificate.ok, f"{what}: {result.certificate}"
    return result


def _follows(adapter: HostAdapter, model: Any, x: Any, outputs: Any, config: Config, what: str) -> None:
    """Check that the values read back in the host's own way follow the network."""
    inputs, found = adapter.values(model, x), adapter.values(model, outputs)
    want = np.asarray(network()(inputs))
    assert found.size == want.size, f"{what}: {found.size} output values for {want.size} outputs"
    error = np.abs(found.reshape(want.shape) - want).max()
    assert error <= 1e-5, f"{what}: the outputs in the model are off the network's by {error:.3g}"


def _under_test(check: Callable[[HostAdapter, Config], None]) -> Callable[..., None]:
    """Make nnembed take the adapter's host for the time of a check, whatever is registered."""

    @wraps(check)
    def run(adapter: HostAdapter, config: Config = DEFAULT) -> None:
        """Run the check with the adapter's host first, and put the registered hosts back."""
        known = registry()
        known.parts("host")  # collects them
        registered = known._parts["host"]
        others = {name: entry for name, entry in registered.items() if name != adapter.host.name}
        known._parts["host"] = {adapter.host.name: (adapter.host, "under test"), **others}
        try:
            check(adapter, config)
        finally:
            known._parts["host"] = registered

    return run


@contextmanager
def _unchanged(adapter: HostAdapter, model: Any, what: str) -> Iterator[None]:
    """Check that a call that fails leaves nothing behind."""
    before, names = adapter.size(model), set(embeddings_of(model))
    yield
    after = adapter.size(model)
    assert after == before, f"{what}: the model had size {before} before and has {after} after an error"
    assert set(embeddings_of(model)) == names, f"{what}: the network is remembered though embedding failed"


# ---- the checks -------------------------------------------------------------------------------------


@since("0.1")
@_under_test
def check_host_declares(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: name, words and features are there; the host knows its own models and no others."""
    host, model = adapter.host, _usable(adapter)
    assert host.name and host.summary, "name and summary must be there"
    assert isinstance(host.accepts, Feature) and Feature.LINEAR in host.accepts, "accepts must contain LINEAR"
    assert host.owns(model), "owns() must be True for a model of the layer"
    for other in (object(), None, "model", np.zeros(3), {}):
        assert not host.owns(other), f"owns() must be False for {other!r}"


@since("0.1")
@_under_test
def check_routes_agree(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: attached and solved by the host, attached and solved by us, laid over: all equal enumeration."""
    for up in (True, False):
        model, x, embedding = _embedded(adapter, attach=True, up=up)
        _own(adapter, model, "attached")
        value = float(np.sum(adapter.values(model, embedding.outputs).ravel() * WEIGHTS))
        _close(value, _best(up), "attached, solved by the host", config)
        _follows(adapter, model, x, embedding.outputs, config, "attached, solved by the host")
        _close(_overlay(model, "attached").objective, _best(up), "attached, solved by nnembed", config)
        model, x, embedding = _embedded(adapter, attach=False, up=up)
        _close(_overlay(model, "laid over").objective, _best(up), "laid over", config)
        _follows(adapter, model, x, embedding.outputs, config, "laid over")


@since("0.1")
@_under_test
def check_rows_of_the_user(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: rows over inputs and outputs hold on every route, and the optimum is that of raw arrays."""
    from nnembed.hosts.arrays import ArrayHost

    found = []
    for one, attach in ((ArrayAdapter(ArrayHost()), False), (adapter, False), (adapter, True)):
        model, x, embedding = _embedded(one, attach=attach)
        one.add_row(model, [(x, np.array([1.0, 0.5])), (embedding.outputs, np.array([1.0, 0.0]))], _LIMIT, "limit")
        found.append(_overlay(model, "with a row of the user").objective)
        if attach:
            _own(one, model, "attached with a row of the user")
            found.append(float(np.sum(one.values(model, embedding.outputs).ravel() * WEIGHTS)))
        used = one.values(model, x) @ [1.0, 0.5] + one.values(model, embedding.outputs).ravel()[0]
        assert used <= _LIMIT + 1e-5, f"the user's row is violated: {used:.9g} > {_LIMIT}"
    assert found[0] is not None
    for value, what in zip(found[1:], ("laid over", "attached", "attached, solved by the host"), strict=True):
        _close(value, found[0], f"{what}, against raw arrays", config)


@since("0.1")
@_under_test
def check_declared_is_infeasible(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: a network that is not attached cannot be forgotten: the host's own solve finds no point, or refuses."""
    model, _, _ = _embedded(adapter, attach=False)
    try:
        solved = adapter.solve(model)
    except NnembedError:
        return
    assert not solved, "the model was solved without its network"


@since("0.1")
@_under_test
def check_remove(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: remove() takes out all it has put in; the model is as before, and takes the network again."""
    for attach in (True, False):
        for inputs in ("variables", "expressions"):
            what = f"remove, attach={attach}, inputs are {inputs}"
            model = _usable(adapter)
            x = adapter.variables(model, LOW, HIGH, "x")
            adapter.objective(model, [(x, np.array([1.0, 1.0]))], maximize=True)
            adapter.add_row(model, [(x, np.array([1.0, 1.0]))], 2.0, "limit")
            before, rows = adapter.size(model), adapter.host.compile(model)
            given = x if inputs == "variables" else adapter.expressions(model, x, np.eye(2) * 0.5, np.ones(2))
            for _ in range(2):
                embedding = embed(model, network(), given, name="net", attach=attach)
                assert adapter.size(model) != before, f"{what}: nothing was put into the model"
                embedding.remove()
                after = adapter.size(model)
                assert after == before, f"{what}: the model had size {before} and has {after}"
                now = adapter.host.compile(model)
                assert (now.n_rows, now.n_columns) == (rows.n_rows, rows.n_columns), f"{what}: rows or columns are left"
                assert (now.matrix != rows.matrix).nnz == 0, f"{what}: the user's rows were changed"
            _own(adapter, model, what)
            assert abs(adapter.values(model, x).sum() - 2.0) <= 1e-6, f"{what}: the user's own optimum was changed"
            _fails(embedding.remove, InputError, f"{what}: a second remove()")


def _fails(call: Any, kind: type[Exception], what: str) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"{what} must raise {kind.__name__}")


@since("0.1")
@_under_test
def check_inputs(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: inputs may be expressions and numbers, on both routes."""
    matrix, constant = np.array([[0.5, 0.25], [0.0, -1.0]]), np.array([0.1, 0.3])
    for attach in (True, False):
        model = _usable(adapter)
        x = adapter.variables(model, LOW, HIGH, "x")
        moved = embed(model, network(), adapter.expressions(model, x, matrix, constant), name="net", attach=attach)
        point = np.array([0.3, -0.2])
        fixed = embed(model, network(), adapter.numbers(model, point), name="fixed", attach=attach)
        adapter.objective(model, [(moved.outputs, WEIGHTS)], maximize=True)
        want = _best_moved(matrix, constant)
        what = f"inputs are expressions, attach={attach}"
        _close(_overlay(model, what).objective, want, what, config)
        if attach:
            _own(adapter, model, what)
            value = float(np.sum(adapter.values(model, moved.outputs).ravel() * WEIGHTS))
            _close(value, want, f"{what}, solved by the host", config)
        at = matrix @ adapter.values(model, x) + constant
        error = np.abs(adapter.values(model, moved.outputs).ravel() - network()(at)).max()
        assert error <= 1e-5, f"{what}: the outputs are off the network's by {error:.3g}"
        error = np.abs(adapter.values(model, fixed.outputs).ravel() - network()(point)).max()
        assert error <= 1e-5, f"inputs are numbers, attach={attach}: the outputs are off the network's by {error:.3g}"


@cache
def _best_of_moved(matrix: tuple[float, ...], constant: tuple[float, ...]) -> float:
    from nnembed.ir.linear import Dense
    from nnembed.ir.network import TensorSpec
    from nnembed.ir.nodes import Affine

    old = network()
    first = Affine("move", ("u",), "x", (Dense(np.array(matrix).reshape(2, 2)),), np.array(constant))
    u = TensorSpec("u", (2,))
    moved = Network((u,), old.outputs, (first, *old.nodes), {"u": u, **old.tensors}, name="moved")
    return enumerate_optimum(moved, LOW, HIGH, WEIGHTS)


def _best_moved(matrix: Array, constant: Array) -> float:
    return _best_of_moved(tuple(matrix.ravel().tolist()), tuple(constant.tolist()))


@since("0.1")
@_under_test
def check_two_networks(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: two networks on the same inputs live side by side; one can be removed without the other."""
    for attach in (True, False):
        model, x, first = _embedded(adapter, attach=attach)
        second = embed(model, network(1), x, name="other", attach=attach)
        adapter.objective(model, [(first.outputs, WEIGHTS), (second.outputs, -WEIGHTS)], maximize=True)
        what = f"two networks, attach={attach}"
        result = _overlay(model, what)
        at = adapter.values(model, x)
        value = float(WEIGHTS @ network()(at) - WEIGHTS @ network(1)(at))
        _close(result.objective, value, what, config)
        grid = np.stack(np.meshgrid(*(np.linspace(a, b, 41) for a, b in zip(LOW, HIGH, strict=True))), axis=-1)
        best = (network()(grid) @ WEIGHTS - network(1)(grid) @ WEIGHTS).max()
        assert value >= best - 1e-6, f"{what}: a point of a grid is better ({best:.9g}) than the optimum ({value:.9g})"
        if attach:
            _own(adapter, model, what)
        adapter.objective(model, [(first.outputs, WEIGHTS)], maximize=True)
        second.remove()
        _close(_overlay(model, what).objective, _best(True), f"{what}, one of them removed", config)


@since("0.1")
@_under_test
def check_batch(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: a batch of points is one embedding; every point follows the network."""
    low, high = np.array([[-1, -0.5], [0.2, 0.2], [-1, 1]]), np.array([[1, 1.5], [0.2, 0.2], [-0.5, 1.5]])
    weights = np.stack([WEIGHTS, WEIGHTS, -WEIGHTS])
    want = sum(enumerate_optimum(network(), a, b, w) for a, b, w in zip(low, high, weights, strict=True))
    for attach in (True, False):
        model = _usable(adapter)
        x = adapter.variables(model, low, high, "x")
        embedding = embed(model, network(), x, name="net", attach=attach)
        adapter.objective(model, [(embedding.outputs, weights)], maximize=True)
        _close(_overlay(model, "batch").objective, want, f"batch of three points, attach={attach}", config)
        _follows(adapter, model, x, embedding.outputs, config, f"batch of three points, attach={attach}")


@since("0.1")
@_under_test
def check_integer_inputs(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: integer variables as inputs: the optimum is the best whole point."""
    points = np.array([[i, j] for i in range(-2, 3) for j in range(-1, 3)], dtype=float)
    want = float((network()(points) @ WEIGHTS).max())
    for attach in (True, False):
        model = _usable(adapter)
        x = adapter.variables(model, np.array([-2.0, -1.0]), np.array([2.0, 2.0]), "x", integer=True)
        embedding = embed(model, network(), x, name="net", attach=attach)
        adapter.objective(model, [(embedding.outputs, WEIGHTS)], maximize=True)
        _close(_overlay(model, "integers").objective, want, f"integer inputs, attach={attach}", config)


@since("0.1")
@_under_test
def check_names_are_stable(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: building the same model twice gives the same text."""
    for attach in (True, False):
        first, second = (adapter.text(_embedded(adapter, attach=attach)[0]) for _ in range(2))
        assert first == second, f"attach={attach}: two runs give different models: {_first_difference(first, second)}"


def _first_difference(first: str, second: str) -> str:
    pairs = zip(first.splitlines(), second.splitlines(), strict=False)
    return next((f"{a!r} and {b!r}" for a, b in pairs if a != b), "one is longer")


@since("0.1")
@_under_test
def check_residual(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: `Embedding.residual` reads the model's solution, and says so when there is none."""
    for attach in (True, False):
        model, _, embedding = _embedded(adapter, attach=attach)
        _fails(embedding.residual, InputError, f"attach={attach}: residual() of a model without a solution")
        _overlay(model, "residual")
        assert embedding.residual() <= 1e-6, f"attach={attach}: residual {embedding.residual():.3g} after nnembed.solve"


@since("0.1")
@_under_test
def check_errors_leave_nothing(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: a taken name, an open box and a wrong number of inputs are refused, and the model stays as it was."""
    for attach in (True, False):
        model, x, _ = _embedded(adapter, attach=attach)
        wide = adapter.variables(model, np.full(2, -np.inf), np.full(2, np.inf), "wide")
        three = adapter.variables(model, np.zeros(3), np.ones(3), "three")
        cases = ((x, "net", InputError), (wide, "open", BoxError), (three, "three", InputError))
        for given, name, kind in cases:
            what = f"attach={attach}, name {name!r}"
            with _unchanged(adapter, model, what):
                _fails(partial(embed, model, network(), given, name=name, attach=attach), kind, what)
        _close(_overlay(model, "after errors").objective, _best(True), "after errors", config)


@since("0.1")
@_under_test
def check_changed_box(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: a box that grows makes attached rows refuse and laid-over ones follow; a box that shrinks is fine."""
    wider, narrower = (LOW - 1, HIGH + 1), (LOW + 0.3, HIGH - 0.3)
    for attach in (True, False):
        model, x, embedding = _embedded(adapter, attach=attach)
        adapter.set_bounds(model, x, *narrower)
        want = enumerate_optimum(network(), *narrower, WEIGHTS)
        _close(_overlay(model, "narrower box").objective, want, f"narrower box, attach={attach}", config)
        adapter.set_bounds(model, x, *wider)
        assert embedding.is_stale(), f"attach={attach}: is_stale() must be True when the box of an input has grown"
        if attach:
            _fails(partial(overlay_solve, model, progress=False), InputError, "solving with rows of a smaller box")
            continue
        want = enumerate_optimum(network(), *wider, WEIGHTS)
        _close(_overlay(model, "wider box").objective, want, "wider box, laid over", config)


@since("0.1")
@_under_test
def check_foreign_variables(adapter: HostAdapter, config: Config = DEFAULT) -> None:
    """Check: variables of another model are refused."""
    model, other = _usable(adapter), adapter.model()
    x = adapter.variables(other, LOW, HIGH, "x")
    with _unchanged(adapter, model, "variables of another model"):
        _fails(lambda: embed(model, network(), x, name="net"), InputError, "embedding variables of another model")
