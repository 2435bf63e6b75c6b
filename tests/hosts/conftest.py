"""Small hand-written blocks, independent of the formulations, and a bare HiGHS to solve problems with."""

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse as sp

from nnembed.block import Block, ColumnGroup, Role
from nnembed.fills import Above, Value
from nnembed.protocols import Solution


@dataclass(frozen=True)
class Spec:
    name: str
    shape: tuple

    @property
    def size(self):
        return int(np.prod(self.shape, dtype=int))


@dataclass(frozen=True, eq=False)
class Net:
    """``W2 relu(W1 x + b1) + b2`` with all neurons written out as big-M."""

    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray

    @property
    def inputs(self):
        return (Spec("x", (self.w1.shape[1],)),)

    @property
    def outputs(self):
        return (Spec("y", (self.w2.shape[0],)),)

    def __call__(self, x):
        return np.maximum(np.asarray(x, float) @ self.w1.T + self.b1, 0) @ self.w2.T + self.b2

    def bounds(self, low, high):
        """Interval bounds of pre-activations and outputs, (batch, n) each."""

        def affine(w, b, lo, hi):
            p, m = np.maximum(w, 0), np.minimum(w, 0)
            return lo @ p.T + hi @ m.T + b, hi @ p.T + lo @ m.T + b

        lo, hi = affine(self.w1, self.b1, low, high)
        return (lo, hi), affine(self.w2, self.b2, np.maximum(lo, 0), np.maximum(hi, 0))

    def block(self, low, high):
        low, high = np.atleast_2d(low).astype(float), np.atleast_2d(high).astype(float)
        batch = len(low)
        (gl, gh), (yl, yh) = self.bounds(low, high)
        n, h, m = self.w1.shape[1], len(self.b1), len(self.b2)
        width = batch * (n + 2 * h + m)
        x0, z0, d0, y0 = np.cumsum([0, batch * n, batch * h, batch * h])
        cap, off = np.maximum(gh, 0).reshape(-1), np.minimum(gl, 0).reshape(-1)
        i = np.arange(batch * h)

        def put(rows, columns, data, k):
            return sp.csr_array(sp.coo_array((data, (rows, columns)), shape=(k, width)))

        w1 = sp.coo_array(sp.block_diag([self.w1] * batch))
        w2 = sp.coo_array(sp.block_diag([self.w2] * batch))
        g = put(w1.row, w1.col, w1.data, batch * h)
        z, d = put(i, z0 + i, np.ones(batch * h), batch * h), put(i, d0 + i, np.ones(batch * h), batch * h)
        b1 = np.tile(self.b1, batch)
        k = np.arange(batch * m)
        y = put(k, y0 + k, np.ones(batch * m), batch * m) - put(w2.row, z0 + w2.col, w2.data, batch * m)
        b2 = np.tile(self.b2, batch)
        inf = np.full(batch * h, np.inf)
        matrix = sp.vstack([z - g, z - g - sp.diags_array(off) @ d, z - sp.diags_array(cap) @ d, y], format="csr")
        elements = np.arange
        return Block(
            matrix=sp.csr_array(matrix),
            row_lower=np.concatenate([b1, -inf, -inf, b2]),
            row_upper=np.concatenate([inf, b1 - off, 0 * cap, b2]),
            lower=np.concatenate([low.ravel(), 0 * cap, 0 * cap, yl.ravel()]),
            upper=np.concatenate([high.ravel(), cap, 0 * cap + 1, yh.ravel()]),
            integer=np.repeat([False, False, True, False], [batch * n, batch * h, batch * h, batch * m]),
            n_inputs=batch * n,
            outputs=y0 + k,
            groups=(
                ColumnGroup("input", Role.INPUT, x0, "x", n, elements(batch * n), Value("x", elements(batch * n))),
                ColumnGroup("/fc1/Relu", Role.POST, z0, "z", h, i, Value("z", i)),
                ColumnGroup("/fc1/Relu", Role.INDICATOR, d0, "g", h, i, Above("g", i)),
                ColumnGroup("y", Role.OUTPUT, y0, "y", m, k, Value("y", k)),
            ),
            batch=batch,
        )


def make_net(seed, n=2, hidden=4, m=2):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).round(3)  # noqa: E731
    return Net(draw(hidden, n), draw(hidden), draw(m, hidden), draw(m))


def run_highs(problem):
    """Solve a problem with HiGHS; duals as HiGHS states them."""
    import highspy

    h = highspy.Highs()
    h.setOptionValue("output_flag", False)
    h.setOptionValue("mip_rel_gap", 0.0)
    h.setOptionValue("threads", 1)
    lp = highspy.HighsLp()
    matrix = sp.csr_array(problem.matrix)
    lp.num_col_, lp.num_row_ = problem.n_columns, problem.n_rows
    lp.col_cost_, lp.offset_ = problem.cost, problem.offset
    lp.col_lower_, lp.col_upper_ = problem.lower, problem.upper
    lp.row_lower_, lp.row_upper_ = problem.row_lower, problem.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
    lp.sense_ = highspy.ObjSense.kMaximize if problem.maximize else highspy.ObjSense.kMinimize
    kinds = [highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger]
    lp.integrality_ = [kinds[int(i)] for i in problem.integer]
    model = highspy.HighsModel()
    model.lp_ = lp
    if problem.quadratic is not None:
        lower = sp.csc_array(sp.tril(problem.quadratic))
        model.hessian_.dim_ = problem.n_columns
        model.hessian_.format_ = highspy.HessianFormat.kTriangular
        model.hessian_.start_, model.hessian_.index_ = lower.indptr, lower.indices
        model.hessian_.value_ = lower.data
    assert h.passModel(model) == highspy.HighsStatus.kOk
    h.run()
    status = h.getModelStatus()
    if status != highspy.HighsModelStatus.kOptimal:
        return Solution("infeasible" if status == highspy.HighsModelStatus.kInfeasible else "error")
    found = h.getSolution()
    duals = None if problem.integer.any() else np.array(found.row_dual)
    return Solution("optimal", np.array(found.col_value), h.getInfo().objective_function_value, duals=duals)


@pytest.fixture
def net():
    return make_net(1)


@pytest.fixture
def nets():
    return make_net


@pytest.fixture
def spec():
    return Spec


@pytest.fixture
def highs():
    return run_highs
