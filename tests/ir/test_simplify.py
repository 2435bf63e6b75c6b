"""Simplification keeps every number, drops what costs, and keeps names honest."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from nnembed.ir.compose import add, compose
from nnembed.ir.linear import Convolution, Dense, Selection, Sparse, diagonal, identity
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Max, absolute, relu
from nnembed.ir.simplify import simplify

R = np.random.default_rng(1)


def full(operator):
    return operator.csr().toarray()


def operators(n_out, n_in, seed):
    """Return one operator of every kind that exists in this shape."""
    rng = np.random.default_rng(seed)
    index = rng.integers(-1, n_in, n_out)
    found = [
        Dense(rng.normal(size=(n_out, n_in))),
        Sparse(sp.random_array((n_out, n_in), density=0.3, rng=rng, format="csr")),
        Selection(index, n_in),
    ]
    if n_out == n_in:
        found += [
            identity(n_in),
            diagonal(rng.normal(size=n_in)),
            diagonal(np.sort(np.resize(rng.normal(size=2), n_in))),
        ]
        found += [Selection(rng.permutation(n_in), n_in)]
    if n_in == 18 and n_out == 18:
        kernel = rng.normal(size=(2, 1, 3, 3))
        found += [Convolution(kernel, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 2)] * 2
        found += [Convolution(rng.normal(size=(2, 2, 3, 1)), (3, 3), (1, 1), (1, 1), ((1, 1), (0, 0)))]
    return found


@pytest.mark.parametrize("shapes", [(4, 6, 8), (18, 18, 18), (8, 3, 8), (2, 18, 18), (18, 18, 3), (5, 5, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_products(shapes, seed):
    n, m, k = shapes
    done = 0
    for outer in operators(n, m, seed):
        for inner in operators(m, k, seed + 10):
            product = compose(outer, inner)
            if product is not None:
                done += 1
                np.testing.assert_allclose(full(product), full(outer) @ full(inner), atol=1e-12)
                assert product.shape == (n, k)
    assert done >= 4


@pytest.mark.parametrize("seed", range(3))
def test_sums(seed):
    for first in operators(18, 18, seed):
        for second in operators(18, 18, seed + 5):
            total = add(first, second)
            if total is not None:
                np.testing.assert_allclose(full(total), full(first) + full(second), atol=1e-12)


def test_products_that_would_grow_are_left():
    assert compose(Dense(R.normal(size=(100, 2))), Dense(R.normal(size=(2, 100)))) is None
    assert isinstance(compose(Dense(R.normal(size=(2, 100))), Dense(R.normal(size=(100, 2)))), Dense)
    dense_rows = Sparse(sp.csr_array(np.ones((40, 1))))
    assert compose(dense_rows, Sparse(sp.csr_array(np.ones((1, 40))))) is None
    conv = Convolution(R.normal(size=(4, 2, 3, 3)), (8, 8), (1, 1), (1, 1), ((1, 1), (1, 1)))
    assert compose(diagonal(R.normal(size=256)), conv) is None


def test_channel_scaling_goes_into_the_kernel():
    conv = Convolution(R.normal(size=(4, 1, 3, 3)), (5, 5), (1, 1), (1, 1), ((1, 1), (1, 1)), 2)
    for product, want in (
        (compose(diagonal(np.repeat([1.0, 2, 3, 4], 25)), conv), np.repeat([1.0, 2, 3, 4], 25)[:, None] * full(conv)),
        (compose(conv, diagonal(np.repeat([2.0, -3], 25))), full(conv) * np.repeat([2.0, -3], 25)),
    ):
        assert isinstance(product, Convolution)
        np.testing.assert_allclose(full(product), want)


def test_zero_padding_goes_into_the_convolution():
    index = np.pad(np.arange(2 * 4 * 3).reshape(2, 4, 3), ((0, 0), (1, 0), (2, 1)), constant_values=-1)
    conv = Convolution(R.normal(size=(3, 2, 2, 2)), (5, 6), (2, 1), (1, 1), ((0, 1), (1, 0)))
    product = compose(conv, Selection(index.ravel(), 24))
    assert isinstance(product, Convolution)
    assert product.size == (4, 3)
    np.testing.assert_allclose(full(product), full(conv) @ full(Selection(index.ravel(), 24)))


# ---- networks -------------------------------------------------------------------------------------------------------


def network(nodes, inputs, outputs, sizes, aliases=None):
    specs = {name: TensorSpec(name, (n,)) for name, n in sizes.items()}
    return Network(
        tuple(specs[n] for n in inputs), tuple(specs[n] for n in outputs), tuple(nodes), specs, aliases or {}
    )


def affine(output, *terms, bias=None, name=None):
    operators_ = tuple(m for _, m in terms)
    bias = np.zeros(operators_[0].shape[0]) if bias is None else bias
    return Affine(name or f"node_{output}", tuple(t for t, _ in terms), output, operators_, bias)


def same(before, after):
    x = {s.name: R.normal(size=(5, s.size)) for s in before.inputs}
    old, new = before.forward(x), after.forward(x)
    for spec in before.outputs:
        np.testing.assert_allclose(new[spec.name], old[spec.name], atol=1e-10)
    for name in after.tensors:
        if name in old:
            np.testing.assert_allclose(new[name], old[name], atol=1e-10)
    for name, target in after.aliases.items():
        if name in old:  # an alias of a tensor is that tensor
            np.testing.assert_allclose(new[target], old[name], atol=1e-10)
    assert after.inputs == before.inputs
    assert after.outputs == before.outputs


def test_chain_keeps_the_last_name():
    nodes = [
        affine("a", ("x", identity(3)), bias=-np.ones(3)),
        affine("b", ("a", diagonal(np.array([1.0, 2, 3])))),
        affine("c", ("b", Dense(R.normal(size=(4, 3)))), bias=R.normal(size=4)),
        relu("r", "c", "y", 4),
    ]
    net = network(nodes, ["x"], ["y"], {"x": 3, "a": 3, "b": 3, "c": 4, "y": 4})
    small = simplify(net)
    same(net, small)
    assert [n.output for n in small.nodes] == ["c", "y"]
    assert small.resolve("node_a") == small.resolve("node_b") == small.resolve("node_c") == "c"
    assert "a" not in small.aliases  # its numbers are gone
    assert set(small.tensors) == {"x", "c", "y"}


def test_big_work_with_several_readers_is_not_repeated():
    weight = R.normal(size=(4, 3))
    nodes = [
        affine("h", ("x", Dense(weight))),
        affine("a", ("h", Dense(R.normal(size=(2, 4))))),
        affine("b", ("h", Dense(R.normal(size=(2, 4))))),
    ]
    net = network(nodes, ["x"], ["a", "b"], {"x": 3, "h": 4, "a": 2, "b": 2})
    small = simplify(net)
    same(net, small)
    assert len(small.nodes) == 3


def test_cheap_work_with_several_readers_vanishes():
    nodes = [
        affine("h", ("x", Selection(np.array([2, 0, 1]), 3)), bias=np.ones(3)),
        affine("a", ("h", Dense(R.normal(size=(2, 3))))),
        affine("b", ("h", Dense(R.normal(size=(2, 3))))),
    ]
    net = network(nodes, ["x"], ["a", "b"], {"x": 3, "h": 3, "a": 2, "b": 2})
    small = simplify(net)
    same(net, small)
    assert len(small.nodes) == 2


def test_terms_of_one_tensor_are_summed():
    nodes = [affine("y", ("x", identity(3)), ("x", Dense(R.normal(size=(3, 3)))), ("x", diagonal(np.ones(3))))]
    net = network(nodes, ["x"], ["y"], {"x": 3, "y": 3})
    small = simplify(net)
    same(net, small)
    assert len(small.nodes[0].operators) == 1


def test_identities_dead_nodes_and_double_relus():
    nodes = [
        affine("same", ("x", identity(3))),
        relu("r1", "same", "a", 3),
        relu("r2", "a", "b", 3),
        absolute("dead", "x", "unused", 3),
        affine("copy", ("b", identity(3))),
        absolute("last", "copy", "y", 3),
    ]
    net = network(nodes, ["x"], ["y"], dict.fromkeys(["x", "same", "a", "b", "unused", "copy", "y"], 3))
    small = simplify(net)
    same(net, small)
    assert [n.kind for n in small.nodes] == ["Relu", "Abs"]
    assert small.resolve("b") == small.resolve("copy") == small.resolve("r2") == "a"
    assert small.resolve("same") == "x"
    assert "dead" not in small.aliases


def test_an_output_that_copies_takes_over():
    nodes = [relu("r", "x", "h", 3), affine("y", ("h", identity(3))), affine("z", ("h", identity(3)))]
    net = network(nodes, ["x"], ["y", "z"], dict.fromkeys(["x", "h", "y", "z"], 3))
    small = simplify(net)
    same(net, small)
    assert len(small.nodes) == 2
    assert small.resolve("h") == small.resolve("r") == "y"


def test_inputs_that_are_outputs():
    net = network([affine("y", ("x", identity(3)))], ["x"], ["y", "x"], {"x": 3, "y": 3})
    small = simplify(net)
    same(net, small)
    assert len(small.nodes) == 1


def test_maximum_reads_through_a_selection():
    groups = np.array([[0, 1], [2, 3]])
    nodes = [affine("h", ("x", Selection(np.array([3, 1, 0, 2]), 4))), Max("m", ("h",), "y", groups)]
    net = network(nodes, ["x"], ["y"], {"x": 4, "h": 4, "y": 2})
    small = simplify(net)
    same(net, small)
    assert [n.kind for n in small.nodes] == ["Max"]


@given(st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_any_graph(seed):
    rng = np.random.default_rng(seed)
    names, nodes, size = ["x", "z"], [], 18
    for k in range(rng.integers(1, 9)):
        source, output = rng.choice(names), f"t{k}"
        kind = rng.integers(0, 5)
        if kind == 0:
            nodes.append(relu(f"n{k}", source, output, size))
        elif kind == 1 and k % 2:
            nodes.append(Max(f"n{k}", (source,), output, rng.integers(0, size, (size, 2))))
        else:
            chosen = [
                (rng.choice(names), rng.choice(operators(size, size, int(rng.integers(9)))))
                for _ in range(1 + kind // 3)
            ]
            nodes.append(affine(output, *chosen, bias=rng.normal(size=size) * (kind > 2), name=f"n{k}"))
        names.append(output)
    outputs = list(dict.fromkeys([names[-1], *rng.choice(names, 2)]))
    net = network(nodes, ["x", "z"], outputs, dict.fromkeys(names, size))
    small = simplify(net)
    same(net, small)
    assert len(small.nodes) <= len(net.nodes)
    assert [n.output for n in simplify(small).nodes] == [n.output for n in small.nodes]
