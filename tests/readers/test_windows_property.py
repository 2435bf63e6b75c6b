"""Convolutions and pools of any attributes, against onnxruntime."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nnembed.errors import ModelFileError, SelfCheckFailed
from nnembed.readers import load

pytestmark = pytest.mark.slow
SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def geometry(draw):
    rank = draw(st.integers(1, 3))
    number = st.integers(1, 3)
    shape = draw(st.lists(st.integers(1, 7 if rank < 3 else 4), min_size=rank, max_size=rank))
    kernel = draw(st.lists(number, min_size=rank, max_size=rank))
    attributes = {"strides": draw(st.lists(number, min_size=rank, max_size=rank))}
    if draw(st.booleans()):
        attributes["dilations"] = draw(st.lists(number, min_size=rank, max_size=rank))
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto != "NOTSET":
        attributes["auto_pad"] = auto
    else:
        attributes["pads"] = draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    return shape, kernel, attributes


def _check(zoo, model):
    """Whatever onnxruntime runs is read right or refused; whatever it refuses is never read and run differently."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        session.run(None, {"x": np.zeros(shape, np.float32)})
    except Exception:  # noqa: BLE001
        assume(False)
    try:
        load(model, check=False)
    except SelfCheckFailed:
        raise
    except ModelFileError as error:
        assert "padding" in str(error) or "fit" in str(error) or "disagree" in str(error)
        return False
    zoo.agrees(model, samples=1)
    return True


@given(geometry(), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2))
@SETTINGS
def test_conv(zoo, where, groups, per_group, images):
    shape, kernel, attributes = where
    rng = np.random.default_rng(len(shape))
    weights = rng.normal(size=(2 * groups, per_group, *kernel)).astype(np.float32)
    node = ("Conv", ["x", "k"], ["y"], {**attributes, "group": groups})
    _check(zoo, zoo.model([node], {"k": weights}, {"x": [images, groups * per_group, *shape]}, opset=18))


@given(geometry(), st.integers(0, 1))
@SETTINGS
def test_max_pool(zoo, where, ceil):
    shape, kernel, attributes = where
    node = ("MaxPool", ["x"], ["y"], {**attributes, "kernel_shape": kernel, "ceil_mode": ceil})
    _check(zoo, zoo.model([node], {}, {"x": [2, 2, *shape]}, opset=18))


@given(geometry(), st.integers(0, 1), st.integers(0, 1))
@SETTINGS
def test_average_pool(zoo, where, ceil, count):
    shape, kernel, attributes = where
    node = (
        "AveragePool",
        ["x"],
        ["y"],
        {**attributes, "kernel_shape": kernel, "ceil_mode": ceil, "count_include_pad": count},
    )
    _check(zoo, zoo.model([node], {}, {"x": [2, 2, *shape]}, opset=19))
