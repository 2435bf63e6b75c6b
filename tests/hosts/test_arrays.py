import time

import numpy as np
import pytest
import scipy.sparse as sp

from nnembed.errors import InputError, WrongModel
from nnembed.hosts.arrays import ArrayHost, ArrayModel
from nnembed.problem import Overlay, overlay

HOST = ArrayHost()


def shop():
    m = ArrayModel(-np.ones(6), 1.0, cost=-0.5, maximize=True, offset=2.0)
    m.add_rows(np.ones((1, 6)), -np.inf, 3.0)
    return m, np.arange(6).reshape(3, 2)


def block_of(net, model, inputs):
    low, high = HOST.input_box(model, inputs)
    return net.block(low.reshape(inputs.batch, -1), high.reshape(inputs.batch, -1))


def put(model, net, x, name="demand"):
    inputs = HOST.parse(model, net.inputs, x)
    return inputs, HOST.attach(model, block_of(net, model, inputs), inputs, net.outputs, name)


def price(model, outputs):
    model.cost[model.positions(outputs.ravel())] = 1.0


def test_attached_equals_overlay_and_the_forward_pass(net, highs):
    m, x = shop()
    _, made = put(m, net, x)
    assert made.outputs.shape == (3, 2)
    price(m, made.outputs)
    row = np.zeros((1, m.n_columns))
    row[0, made.outputs[:, 0]] = 1
    m.add_rows(row, -np.inf, 0.5)
    problem = m.arrays()
    solution = highs(problem)
    values = HOST.load(m, problem, solution)
    assert np.allclose(net(values[x]), values[m.positions(made.outputs)], atol=1e-6)
    assert problem.objective(solution.x) == pytest.approx(solution.objective)

    m2, x2 = shop()
    inputs = HOST.parse(m2, net.inputs, x2)
    block = block_of(net, m2, inputs)
    box = block.lower[block.outputs], block.upper[block.outputs]
    declared = HOST.declare(m2, box, inputs, net.outputs, "demand")
    price(m2, declared.outputs)
    row = np.zeros((1, m2.n_columns))
    row[0, declared.outputs[:, 0]] = 1
    m2.add_rows(row, -np.inf, 0.5)
    with pytest.raises(InputError, match="'demand' are not in these arrays"):
        m2.arrays()
    host_problem = HOST.compile(m2)
    assert host_problem.n_rows == 2
    full = overlay(host_problem, [Overlay(None, "demand", block, inputs, declared.output_labels)])
    other = highs(full)
    assert other.objective == pytest.approx(solution.objective, abs=1e-6)
    values = HOST.load(m2, full, other)
    assert len(values) == m2.n_columns


def test_the_raw_arrays_of_a_declared_model_are_infeasible(net):
    m, x = shop()
    inputs = HOST.parse(m, net.inputs, x)
    made = HOST.declare(m, (-np.ones(6), np.ones(6)), inputs, net.outputs, "demand")
    assert m.row_lower[-1] == 1
    assert m.matrix[[-1]].nnz == 0
    made.remove()
    made.remove()
    assert (m.n_columns, m.n_rows) == (6, 1)
    m.arrays()


def test_affine_inputs_and_several_networks(nets, highs):
    net, other = nets(1), nets(2)
    m, _ = shop()
    matrix = sp.csr_array(np.array([[1.0, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]))
    inputs, made = put(m, net, (matrix, np.array([0.5, -0.25])), "first")
    assert inputs.lead == ()
    assert HOST.describe_entry(m, inputs, 0) == "the expression +1 column 0 +2 column 1"
    assert HOST.describe_entry(m, inputs, 1) == "the number -0.25"
    _, last = put(m, other, made.outputs, "second")
    price(m, last.outputs)
    problem = m.arrays()
    values = HOST.load(m, problem, highs(problem))
    point = np.array([values[0] + 2 * values[1] + 0.5, -0.25])
    assert np.allclose(other(net(point)), values[m.positions(last.outputs)], atol=1e-5)
    with pytest.raises(InputError, match="still use columns of the network 'first'"):
        made.remove()
    last.remove()
    made.remove()
    assert (m.n_columns, m.n_rows) == (6, 1)


def test_labels_stay_valid_when_an_earlier_network_leaves(nets, highs):
    net = nets(1)
    m, x = shop()
    _, first = put(m, net, x[0], "first")
    inputs, second = put(m, net, x, "second")
    first.remove()
    with pytest.raises(WrongModel):
        m.positions(first.output_labels)
    price(m, second.outputs)
    problem = m.arrays()
    values = HOST.load(m, problem, highs(problem))
    assert np.allclose(net(values[x]), values[m.positions(second.outputs)], atol=1e-6)
    block = block_of(net, m, inputs)
    assert np.array_equal(problem.lower[problem.position(second.labels)], block.lower)


def test_batches_of_several_inputs_broadcast(spec):
    m, x = shop()
    inputs = HOST.parse(m, [spec("a", (2,)), spec("b", (1,))], {"a": x, "b": np.array([5])})
    assert inputs.lead == (3,)
    assert inputs.direct.tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 5]
    image = HOST.parse(m, [spec("a", (3, 2))], x)
    assert image.lead == ()


def test_integer_boxes_and_outputs_by_name(spec):
    m = ArrayModel([0.5, -1], [3.5, np.inf], integer=[True, False])
    inputs = HOST.parse(m, [spec("x", (2,))], np.arange(2))
    low, high = HOST.input_box(m, inputs)
    assert low.tolist() == [1, -1]
    assert high.tolist() == [3, np.inf]
    made = HOST.declare(m, (np.zeros(5), np.ones(5)), inputs, [spec("a", (2, 2)), spec("b", ())], "n")
    assert made.outputs["a"].shape == (2, 2)
    assert made.outputs["b"].shape == ()


def test_wrong_use(net, spec):
    m, x = shop()
    one = [spec("x", (2,))]
    with pytest.raises(InputError, match="integer column numbers"):
        HOST.parse(m, one, [0.0, 1.0])
    with pytest.raises(WrongModel):
        HOST.parse(m, one, [0, 6])
    with pytest.raises(WrongModel):
        HOST.parse(m, one, [0, -1])
    with pytest.raises(InputError, match="expects shape"):
        HOST.parse(m, one, np.arange(3))
    with pytest.raises(InputError, match="need \\(2, 6\\)"):
        HOST.parse(m, one, (np.ones((2, 5)), np.zeros(2)))
    put(m, net, x)
    with pytest.raises(InputError, match="already has a network 'demand'"):
        put(m, net, x)
    with pytest.raises(InputError, match="different lengths"):
        m.cost = m.cost[:-1]
        m.arrays()
    with pytest.raises(InputError, match="hold NaN"):
        bad = ArrayModel([0.0], [1.0], cost=np.nan)
        bad.arrays()
    with pytest.raises(InputError, match="2 columns"):
        ArrayModel([0.0], [1.0], matrix=np.ones((1, 2)))
    with pytest.raises(InputError, match="cost has shape"):
        ArrayModel([0.0], [1.0], cost=[1.0, 2.0])


def test_constructing_is_fast():
    start = time.process_time()
    for _ in range(200):
        ArrayModel(np.zeros(784), np.ones(784)).arrays()
    assert time.process_time() - start < 0.5
