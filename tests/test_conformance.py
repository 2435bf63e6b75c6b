"""The conformance kit on everything nnembed brings along, as it brings along the kit for everybody else."""

from __future__ import annotations

from nnembed.hooks.manager import POINTS, registry
from nnembed.testing import parametrize_with_checks
from nnembed.testing.kit import SUITES, name_of


def built_ins():
    """Return every part that nnembed itself registers."""
    book = registry()
    own = {(e.extension_point, e.name) for e in book.entries() if e.distribution.split()[0] == "nnembed"}
    return [part for point in SUITES for name, part in book.parts(point).items() if (point, name) in own]


@parametrize_with_checks(built_ins())
def test_conformance(subject, check):
    check(subject)


def test_every_extension_point_has_a_suite():
    assert set(SUITES) == {point for point, _ in POINTS.values()}


def test_all_built_ins_are_there():
    names = {name_of(part) for part in built_ins()}
    assert {"two_row", "triangle", "crown", "highs", "arrays", "linopy", "forward", "ai.onnx.Gemm@1"} <= names
