"""The standard's own node tests: whatever is read has to give the standard's result."""

import warnings

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from nnembed.errors import ModelFileError
from nnembed.readers import builtin_readers, load

pytestmark = pytest.mark.slow


def _cases():
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return collect_testcases(None)


def _with_constants(model, arrays, symbolic):
    """Return the model with every input but those at `symbolic` turned into an initializer."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    known = {t.name for t in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in known]
    del fixed.graph.input[:]
    for k, (value, array) in enumerate(zip(inputs, arrays, strict=True)):
        if k in symbolic:
            fixed.graph.input.append(value)
        else:
            fixed.graph.initializer.append(numpy_helper.from_array(np.asarray(array), value.name))
    return fixed


def _close(got, want, dtype):
    tolerance = {"float16": 2e-2, "bfloat16": 8e-2}.get(str(dtype), 1e-4)
    return np.allclose(got, want, rtol=tolerance, atol=tolerance)


def _outcome(model, inputs, outputs, symbolic):
    """Return "right", "refused" with the reason, or "WRONG"."""
    try:
        net = load(_with_constants(model, inputs, symbolic), check=False)
    except ModelFileError as error:
        return f"refused {error}"
    feeds = {
        spec.name: np.asarray(inputs[k], float).reshape(1, -1) for k, spec in zip(symbolic, net.inputs, strict=True)
    }
    state = net.forward(feeds)
    for spec, want in zip(net.outputs, outputs, strict=True):
        got = state[spec.name][0]
        if got.size != np.size(want) or not _close(got, np.asarray(want, float).ravel(), np.asarray(want).dtype):
            return f"WRONG {got} instead of {np.ravel(want)}"
    return "right"


def _tensors(values):
    return all(isinstance(v, np.ndarray) or np.isscalar(v) for v in values)


@pytest.fixture(scope="module")
def outcomes():
    read = {reader.op_type for reader in builtin_readers()}
    found = {}
    for case in _cases():
        if case.model is None or not {n.op_type for n in case.model.graph.node} & read:
            continue
        inputs, outputs = case.data_sets[0]
        if not _tensors([*inputs, *outputs]):
            continue
        floats = [k for k, v in enumerate(inputs) if "float" in str(np.asarray(v).dtype) and np.size(v)]
        if not floats:
            continue
        found[case.name] = _outcome(case.model, inputs, outputs, floats[:1])
        if len(floats) > 1:
            found[f"{case.name}/all"] = _outcome(case.model, inputs, outputs, floats)
            found[f"{case.name}/last"] = _outcome(case.model, inputs, outputs, floats[-1:])
    return found


def test_none_is_wrong(outcomes):
    assert not {name: text for name, text in outcomes.items() if text.startswith("WRONG")}


def test_most_are_read(outcomes):
    right = [name for name, text in outcomes.items() if text == "right"]
    assert len(right) >= 250


def test_refusals_say_why(outcomes):
    refused = [text for text in outcomes.values() if text.startswith("refused")]
    assert refused
    assert all(len(text) > 40 for text in refused)


def _shipped():
    from pathlib import Path

    root = Path(onnx.__file__).parent / "backend" / "test" / "data"
    return sorted(path.parent for kind in ("pytorch-*", "simple") for path in root.glob(f"{kind}/*/model.onnx"))


def _tensor(path):
    return numpy_helper.to_array(onnx.load_tensor(str(path)))


@pytest.mark.parametrize("folder", _shipped(), ids=lambda p: p.name)
def test_shipped_models(folder):
    data = folder / "test_data_set_0"
    model = onnx.load(folder / "model.onnx")
    try:
        inputs = [_tensor(data / f"input_{k}.pb") for k in range(len(list(data.glob("input_*"))))]
        outputs = [_tensor(data / f"output_{k}.pb") for k in range(len(list(data.glob("output_*"))))]
    except (TypeError, ValueError):
        pytest.skip("sequences")
    fixed = {t.name for t in model.graph.initializer}
    free = [k for k, v in enumerate(v for v in model.graph.input if v.name not in fixed)]
    floats = [k for k in free if inputs[k].dtype.kind == "f"]
    if len(free) != len(inputs) or not floats:
        pytest.skip("no real inputs")
    for symbolic in (floats, floats[:1]):
        text = _outcome(model, inputs, outputs, symbolic)
        print(text)
        assert not text.startswith("WRONG")
