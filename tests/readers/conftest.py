"""Small ONNX models and the comparison with onnxruntime."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def _model(nodes, constants=None, inputs=None, outputs=("y",), opset=17, ir_version=8, domains=()):
    """Return a model; `inputs` maps names to shapes (float32) or to (shape, ONNX type)."""
    inputs = {"x": ["N", 3]} if inputs is None else inputs
    typed = {n: s if isinstance(s, tuple) else (s, TensorProto.FLOAT) for n, s in inputs.items()}
    graph = helper.make_graph(
        [helper.make_node(*n[:3], **n[3]) if isinstance(n, tuple) else n for n in nodes],
        "g",
        [helper.make_tensor_value_info(n, t, s) for n, (s, t) in typed.items()],
        [o if not isinstance(o, str) else helper.make_empty_tensor_value_info(o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    sets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in domains)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=ir_version)
    inferred = onnx.shape_inference.infer_shapes(model)
    for k, value in enumerate(inferred.graph.output):
        if not value.type.WhichOneof("value"):
            model.graph.output[k].CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None))
        else:
            model.graph.output[k].CopyFrom(value)
    return model


def _agrees(model, samples=4, seed=0, scale=2.0, tolerance=1e-4):
    """Assert that the network as read, plain and simplified, equals onnxruntime; return it."""
    import onnxruntime as ort

    from nnembed.readers import builtin_readers, load
    from nnembed.readers.files import open_model
    from nnembed.readers.graph import GraphReader

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    reader = GraphReader(open_model(model), builtin_readers())
    reader.run()
    plain, _ = reader.network()
    net = load(model, check=False)
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        flat, feeds = {}, {}
        for slot in reader.inputs:
            value = rng.normal(size=slot.shape) * scale
            value = np.rint(value) if "int" in slot.spec.dtype else value
            feeds[slot.spec.name] = value.astype(slot.spec.dtype)
            flat[slot.spec.name] = feeds[slot.spec.name].astype(float).reshape(1, -1)
        want = session.run([spec.name for spec in net.outputs], feeds)
        for candidate in (plain, net):
            state = candidate.forward(flat)
            for spec, value in zip(candidate.outputs, want, strict=True):
                assert spec.size == value.size
                assert spec.shape in (value.shape, value.shape[1:])
                np.testing.assert_allclose(state[spec.name][0], value.ravel(), rtol=tolerance, atol=tolerance)
    net.self_check(samples=8)
    return net


@pytest.fixture(scope="session")
def zoo():
    return SimpleNamespace(model=_model, agrees=_agrees, rng=np.random.default_rng(7))
