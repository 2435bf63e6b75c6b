"""Cuts of one neuron's hull: the extended form and the projected hull, solved as LPs, are the judges."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from nnembed.bounds.hull import ideal_cut, projected_cut, simplex_cut


def neuron(rng, n, spread=1.0):
    w = rng.normal(size=n) * np.exp(spread * rng.normal(size=n))
    w[rng.uniform(size=n) < 0.1] = 0.0
    low = rng.normal(size=n)
    high = low + rng.exponential(size=n) * (rng.uniform(size=n) > 0.1)
    middle = w @ (low + high) / 2
    return w, -middle + rng.normal() * 0.5 * np.abs(w) @ (high - low) / np.sqrt(n), low, high


def extended(w, b, low, high, x, z=None):
    """Return the largest y of the extended formulation at x (and z), minus infinity where there is none."""
    n = len(w)
    cost = -np.concatenate([w, np.zeros(n), [b]])  # p, q, z
    eye, one = np.eye(n), np.ones((n, 1))
    upper = np.vstack(
        [
            np.hstack([eye, 0 * eye, -high[:, None]]),
            np.hstack([-eye, 0 * eye, low[:, None]]),
            np.hstack([0 * eye, eye, high[:, None] * one]),
            np.hstack([0 * eye, -eye, -low[:, None] * one]),
            np.concatenate([0 * w, w, [-b]])[None],
            -np.concatenate([w, 0 * w, [b]])[None],
        ]
    )
    limit = np.concatenate([np.zeros(2 * n), high, -low, [-b], [0.0]])
    equal = np.hstack([eye, eye, np.zeros((n, 1))])
    sides = [(None, None)] * (2 * n) + [(0, 1) if z is None else (z, z)]
    found = linprog(cost, upper, limit, equal, x, bounds=sides, method="highs")
    return -found.fun if found.status == 0 else -np.inf


def test_ideal_cuts_are_the_extended_form_on_400_neurons():
    rng = np.random.default_rng(0)
    feasible = 0
    for _ in range(400):
        n = int(rng.integers(1, 14))
        w, b, low, high = neuron(rng, n)
        x, z = rng.uniform(low, high), rng.uniform()
        violation, coef_x, coef_z, constant = ideal_cut(
            w[None], np.array([b]), low, high, x, np.zeros(1), np.array([z])
        )
        most = -violation[0]
        assert most == pytest.approx(coef_x[0] @ x + coef_z[0] * z + constant[0], abs=1e-12)
        judge = extended(w, b, low, high, x, z)
        least = max(0.0, w @ x + b)
        scale = 1e-7 * (1 + abs(b) + np.abs(w) @ np.maximum(abs(low), abs(high)))
        if judge > -np.inf:
            feasible += 1
            assert most == pytest.approx(judge, abs=scale)
        else:
            assert most <= least + scale
    assert feasible > 50


def test_projected_cuts_are_the_projected_hull():
    rng = np.random.default_rng(1)
    for _ in range(200):
        n = int(rng.integers(1, 12))
        w, b, low, high = neuron(rng, n, 0.5)
        x = rng.uniform(low, high)
        violation, _, _ = projected_cut(w[None], np.array([b]), low, high, x, np.zeros(1))
        scale = 1 + abs(b) + np.abs(w) @ np.maximum(abs(low), abs(high))
        assert -violation[0] == pytest.approx(extended(w, b, low, high, x), abs=1e-7 * scale)


def all_projected(w, b, low, high, x):
    """Return the least right-hand side over all facets, by enumeration."""
    least, most = np.where(w >= 0, low, high), np.where(w >= 0, high, low)
    best = np.inf
    for bits in product((False, True), repeat=len(w)):
        inside = np.array(bits)
        level = b + w[inside] @ least[inside] + w[~inside] @ most[~inside]
        for h in np.flatnonzero(~inside & (w != 0) & (low < high)):
            if level >= 0 > level - w[h] * (most[h] - least[h]):
                side = level * (x[h] - least[h]) / (most[h] - least[h])
                best = min(best, w[inside] @ (x - least)[inside] + side)
    return best


def test_projected_separation_is_exact():
    rng = np.random.default_rng(2)
    seen = 0
    while seen < 100:
        w, b, low, high = neuron(rng, int(rng.integers(1, 9)), 0.3)
        x = rng.uniform(low, high)
        judge = all_projected(w, b, low, high, x)
        if np.isfinite(judge):
            seen += 1
            violation, _, _ = projected_cut(w[None], np.array([b]), low, high, x, np.zeros(1))
            scale = abs(b) + np.abs(w) @ np.maximum(abs(low), abs(high))
            assert -violation[0] == pytest.approx(judge, abs=1e-12 * scale)


def fraction_sum(coefficients, x):
    from fractions import Fraction

    return sum(Fraction(float(c)) * Fraction(float(v)) for c, v in zip(coefficients, x, strict=True))


@given(st.integers(0, 10**9), st.sampled_from([0.0, 1.0, 8.0]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_no_true_point_is_cut_off(seed, spread, sparse):
    """Exact rational arithmetic: rounding included, whatever the scale of the weights."""
    from fractions import Fraction

    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 7)), 3
    parts = [neuron(rng, n, spread) for _ in range(k)]
    low, high = parts[0][2], parts[0][3]
    weights, bias = np.stack([p[0] for p in parts]), np.array([p[1] for p in parts])
    given_as = sp.csr_array(weights) if sparse else weights
    at, y, z = rng.uniform(low, high), rng.exponential(size=k), rng.uniform(size=k)
    _, ideal_x, ideal_z, ideal_constant = ideal_cut(given_as, bias, low, high, at, y, z)
    _, hull_x, hull_constant = projected_cut(given_as, bias, low, high, at, y)
    if sparse:
        ideal_x, hull_x = ideal_x.toarray(), hull_x.toarray()
    corners = np.where(rng.uniform(size=(20, n)) < 0.5, low, high)
    for x in np.vstack([corners, rng.uniform(low, high, (10, n))]):
        for i in range(k):
            g = fraction_sum(weights[i], x) + Fraction(float(bias[i]))
            true = max(g, Fraction(0))
            assert true <= fraction_sum(hull_x[i], x) + Fraction(float(hull_constant[i]))
            for state in {g >= 0, g > 0}:
                side = fraction_sum(ideal_x[i], x) + Fraction(float(ideal_constant[i]))
                assert true <= side + (Fraction(float(ideal_z[i])) if state else 0)


def test_sparse_and_dense_weights_agree():
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(20, 15)) * (rng.uniform(size=(20, 15)) < 0.3)
    low, high = -rng.uniform(size=(20, 15)), rng.uniform(size=(20, 15))
    x, y, z, bias = rng.uniform(low, high), rng.uniform(size=20), rng.uniform(size=20), rng.normal(size=20)
    dense, sparse = (ideal_cut(w, bias, low, high, x, y, z) for w in (weights, sp.csr_array(weights)))
    assert np.allclose(dense[0], sparse[0]) and np.allclose(dense[1], sparse[1].toarray())
    dense, sparse = (projected_cut(w, bias, low, high, x, y) for w in (weights, sp.csr_array(weights)))
    assert np.allclose(dense[0], sparse[0]) and np.allclose(dense[1], sparse[1].toarray())


def test_decided_neurons_have_their_line():
    weights, box = np.array([[1.0, -2.0], [1.0, -2.0]]), (np.zeros(2), np.ones(2))
    point = np.array([0.5, 0.25])
    violation, coef, constant = projected_cut(weights, np.array([5.0, -5.0]), *box, point, np.array([5.5, 1.0]))
    assert coef.tolist() == [[1.0, -2.0], [0.0, 0.0]]
    assert constant == pytest.approx([5.0, 0.0], abs=1e-12)
    assert violation == pytest.approx([0.5, 1.0], abs=1e-12)


def test_range_of_coefficients_is_bounded():
    weights, bias = np.array([[1e-9, 1.0, 0.5], [1e9, 1.0, 0.5]]), np.array([-0.7, -0.7])
    x, y, z = np.full(3, 0.5), np.full(2, 0.9), np.full(2, 0.4)
    violation, coef_x, coef_z, _ = ideal_cut(weights, bias, np.zeros(3), np.ones(3), x, y, z)
    assert violation[0] > 0 and violation[1] == -np.inf
    sizes = np.append(np.abs(coef_x[0]), abs(coef_z[0]))
    assert sizes[sizes > 0].min() >= 1e-6
    violation, coef, _ = projected_cut(weights, bias, np.zeros(3), np.ones(3), x, y)
    sizes = np.abs(coef[0])
    assert violation[0] > 0 and sizes[sizes > 0].min() >= 1e-6


def test_simplex_cuts_are_the_hull_over_one_hot_blocks():
    """Judge: y <= w.p + b z with p, q the masses of the two states in every block."""
    rng = np.random.default_rng(5)
    seen = 0
    for _ in range(120):
        blocks = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])[rng.permutation(9)]
        n = 9
        w, b = rng.normal(size=n), rng.normal() * 0.5
        x = np.concatenate([rng.dirichlet(np.ones((blocks == k).sum())) for k in range(3)])
        where = np.concatenate([np.flatnonzero(blocks == k) for k in range(3)])
        x[where] = x.copy()
        z = rng.uniform()
        both = np.eye(n)
        ones = np.array([(blocks == k).astype(float) for k in range(3)])
        equal = np.vstack([np.hstack([both, both]), np.hstack([ones, 0 * ones])])
        upper = np.vstack([np.concatenate([0 * w, w]), -np.concatenate([w, 0 * w])])
        limit = np.array([-b * (1 - z), b * z])
        right = np.concatenate([x, np.full(3, z)])
        judge = linprog(-np.concatenate([w, 0 * w]), upper, limit, equal, right, method="highs")
        zero = np.zeros(1)
        violation, coef_x, coef_z, constant = simplex_cut(
            w[None], np.array([b]), np.zeros(n), np.ones(n), blocks, x, zero, np.array([z])
        )
        if judge.status == 0:
            seen += 1
            assert -violation[0] == pytest.approx(-judge.fun + b * z, abs=1e-9)
        for corner in product(*(np.flatnonzero(blocks == k) for k in range(3))):
            point = np.zeros(n)
            point[list(corner)] = 1.0
            g = w @ point + b
            assert max(g, 0) <= coef_x[0] @ point + coef_z[0] * (g > 0) + constant[0] + 1e-15
    assert seen > 30


def test_blocks_and_a_box_together():
    rng = np.random.default_rng(6)
    blocks, w = np.array([-1, 0, 0, -1, 0]), rng.normal(size=(40, 5))
    bias, low, high = rng.normal(size=40), np.array([-1.0, 0, 0, 0.5, 0]), np.array([1.0, 1, 1, 2, 1])
    x = np.array([0.3, 0.2, 0.5, 1.0, 0.3])
    _, coef_x, coef_z, constant = simplex_cut(w, bias, low, high, blocks, x, rng.uniform(size=40), rng.uniform(size=40))
    for _ in range(500):
        point = rng.uniform(low, high)
        point[blocks == 0] = rng.dirichlet(np.full(3, 0.3))
        g = w @ point + bias
        assert (np.maximum(g, 0) <= coef_x @ point + coef_z * (g > 0) + constant + 1e-12).all()
