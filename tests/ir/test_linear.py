"""Every operator equals its matrix, in both directions."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from nnembed.ir.linear import Convolution, Dense, Selection, Sparse, dense_to_csr, diagonal, identity

R = np.random.default_rng(2)
CONVOLUTIONS = {
    "plain": Convolution(R.normal(size=(3, 2, 3, 2)), (5, 4), (1, 1), (1, 1), ((0, 0), (0, 0))),
    "strided": Convolution(R.normal(size=(4, 1, 3, 3)), (6, 7), (2, 3), (1, 2), ((1, 0), (2, 1)), 2),
    "1d": Convolution(R.normal(size=(2, 2, 3)), (9,), (2,), (2,), ((1, 3),)),
    "3d": Convolution(R.normal(size=(2, 1, 2, 2, 2)), (3, 4, 3), (1, 2, 1), (1, 1, 2), ((1, 1), (0, 0), (1, 0))),
    "zeros in the kernel": Convolution(np.array([[[1.0, 0, 2]]]), (5,), (1,), (1,), ((1, 1),)),
}
OPERATORS = {
    "dense": Dense(R.normal(size=(3, 5))),
    "sparse": Sparse(sp.random_array((4, 6), density=0.4, rng=R, format="csr")),
    "empty": Sparse(sp.csr_array((3, 4))),
    "selection": Selection(np.array([2, 0, 0, -1]), 3),
    "permutation": Selection(np.array([1, 2, 0]), 3),
    "of nothing": Selection(np.array([-1, -1]), 0),
    "identity": identity(4),
    "diagonal": diagonal(np.array([1.0, 0.0, -2.0])),
    **CONVOLUTIONS,
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (0,)])
def test_apply_and_pull(name, lead):
    operator = OPERATORS[name]
    matrix = operator.csr().toarray()
    assert matrix.shape == operator.shape
    x, a = R.normal(size=(*lead, operator.shape[1])), R.normal(size=(*lead, operator.shape[0]))
    np.testing.assert_allclose(operator.apply(x), x @ matrix.T, atol=1e-12)
    np.testing.assert_allclose(operator.pull(a), a @ matrix, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_rows_absolute_terms(name):
    operator = OPERATORS[name]
    matrix = operator.csr().toarray()
    rows = np.array([operator.shape[0] - 1, 0])
    np.testing.assert_array_equal(operator.csr(rows).toarray(), matrix[rows])
    np.testing.assert_array_equal(operator.absolute.csr().toarray(), np.abs(matrix))
    assert operator.csr().data.all()
    used = max((matrix != 0).sum(axis=1).max(initial=0), (matrix != 0).sum(axis=0).max(initial=0))
    assert operator.terms >= used
    assert operator.parameters >= 0


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_convolution_by_definition(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups, per_out, per_in = draw(1, 2), draw(1, 2), draw(1, 2)
    size, kernel = (draw(3, 5), draw(3, 5)), (draw(1, 3), draw(1, 2))
    strides, dilations = (draw(1, 2), draw(1, 3)), (draw(1, 1), draw(1, 2))
    pads = ((draw(0, 2), draw(0, 2)), (draw(0, 2), draw(0, 2)))
    weights = R.normal(size=(groups * per_out, per_in, *kernel))
    operator = Convolution(weights, size, strides, dilations, pads, groups)
    x = R.normal(size=(groups * per_in, *size))
    padded = np.pad(x, ((0, 0), *pads))
    want = np.zeros((groups * per_out, *operator.out_size))
    for o, i, j in np.ndindex(want.shape):
        for c, u, v in np.ndindex(weights.shape[1:]):
            row, column = i * strides[0] + u * dilations[0], j * strides[1] + v * dilations[1]
            want[o, i, j] += weights[o, c, u, v] * padded[o // per_out * per_in + c, row, column]
    np.testing.assert_allclose(operator.apply(x.ravel()), want.ravel(), atol=1e-12)
    np.testing.assert_allclose(operator.csr() @ x.ravel(), want.ravel(), atol=1e-12)


def test_dense_to_csr():
    for weight in (R.normal(size=(3, 4)), np.eye(3), np.zeros((2, 5)), np.zeros((0, 3)), np.zeros((3, 0))):
        np.testing.assert_array_equal(dense_to_csr(weight).toarray(), weight)
