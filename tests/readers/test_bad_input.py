"""Files that cannot be used: the error says cause and cure, and nothing is taken for granted."""

import gzip
import io

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnembed.errors import ExternalDataError, ModelFileError, PluginError, SelfCheckFailed, UnsupportedOperators
from nnembed.readers import BuiltinReader, builtin_readers, load, reads, survey
from nnembed.readers import files as files_module

W = np.arange(12, dtype=np.float32).reshape(3, 4)


def node(op, inputs="x", outputs="y", **attributes):
    return (op, inputs.split(",") if inputs else [], outputs.split(","), attributes)


@pytest.fixture
def gemm(zoo):
    return zoo.model([node("Gemm", "x,w", "h"), node("Relu", "h", "y")], {"w": W})


# ---- the file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["path", "str", "bytes", "file", "proto", "gz", "gz bytes", "bytearray"])
def test_every_source(gemm, tmp_path, form):
    blob = gemm.SerializeToString()
    path = tmp_path / "net.onnx"
    path.write_bytes(blob)
    packed = tmp_path / "net.onnx.gz"
    packed.write_bytes(gzip.compress(blob))
    sources = {
        "path": path,
        "str": str(path),
        "bytes": blob,
        "file": io.BytesIO(blob),
        "proto": gemm,
        "gz": packed,
        "gz bytes": gzip.compress(blob),
        "bytearray": bytearray(blob),
    }
    net = load(sources[form])
    np.testing.assert_allclose(net([1.0, 2.0, 3.0]), np.maximum([1, 2, 3] @ W, 0))


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (b"", "empty"),
        (b"hello, this is not a network", "not an ONNX model"),
        (b"PK\x03\x04rest of a zip", "zip archive"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x80\x04\x95pickle", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\x1f\x8bnot really", "gzip"),
    ],
)
def test_not_a_model(blob, words):
    with pytest.raises(ModelFileError, match=words):
        load(blob)


def test_every_truncation_is_noticed(gemm):
    blob = gemm.SerializeToString()
    for length in range(0, len(blob) - 1, 7):
        with pytest.raises(ModelFileError):
            load(blob[:length])


def test_missing_path_and_folder(tmp_path):
    with pytest.raises(ModelFileError, match="does not exist"):
        load(tmp_path / "absent.onnx")
    with pytest.raises(ModelFileError, match="folder"):
        load(tmp_path)


def test_wrong_type_and_text_mode(gemm, tmp_path):
    with pytest.raises(ModelFileError, match="pass a path"):
        load(3.5)
    with pytest.raises(ModelFileError, match="ModelProto"):
        load(gemm.graph)
    with pytest.raises(ModelFileError, match="rb"):
        load(io.StringIO("text"))


def test_two_gigabytes(gemm, tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "MAX_BYTES", 64)
    path = tmp_path / "net.onnx"
    path.write_bytes(gemm.SerializeToString())
    for source in (path, gemm, io.BytesIO(gemm.SerializeToString()), gzip.compress(gemm.SerializeToString() * 5)):
        with pytest.raises(ModelFileError, match="external data"):
            load(source)


def test_a_sparse_file_of_three_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "big.onnx"
    with path.open("wb") as stream:
        stream.truncate(3 * 2**30)
    with pytest.raises(ModelFileError, match="2 GiB"):
        load(path)


def test_opset_of_the_future(zoo):
    model = zoo.model([node("Relu")])
    model.opset_import[0].version = 999
    with pytest.raises(ModelFileError, match="operator set 999"):
        load(model)


# ---- external data ----------------------------------------------------------------------------------


@pytest.fixture
def beside(gemm, tmp_path):
    path = tmp_path / "model" / "net.onnx"
    path.parent.mkdir()
    onnx.save(gemm, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def _point(path, **entries):
    """Rewrite where the weights of a model lie."""
    model = onnx.load(path, load_external_data=False)
    for key, value in entries.items():
        found = [e for e in model.graph.initializer[0].external_data if e.key == key]
        entry = found[0] if found else model.graph.initializer[0].external_data.add(key=key)
        entry.value = value
    path.write_bytes(model.SerializeToString())


def test_external_data_load(beside):
    net = load(beside)
    np.testing.assert_allclose(net([1.0, 2.0, 3.0]), np.maximum([1, 2, 3] @ W, 0))
    assert net.self_check() < 1e-4


def test_external_data_from_another_folder(beside, monkeypatch, tmp_path):
    monkeypatch.chdir(beside.parent)
    assert load("net.onnx").input_size == 3
    monkeypatch.chdir(tmp_path)
    assert load("model/net.onnx").input_size == 3


def test_external_data_missing(beside):
    (beside.parent / "weights.bin").unlink()
    with pytest.raises(ExternalDataError, match=r"'w'.*weights.bin is missing"):
        load(beside)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin", "", "."])
def test_external_data_outside(beside, location):
    (beside.parent.parent / "secret.bin").write_bytes(b"\0" * 48)
    _point(beside, location=location)
    with pytest.raises(ExternalDataError, match="'w'"):
        load(beside)


def test_external_data_through_a_link(beside):
    secret = beside.parent.parent / "secret.bin"
    secret.write_bytes(b"\0" * 48)
    (beside.parent / "weights.bin").unlink()
    (beside.parent / "weights.bin").symlink_to(secret)
    with pytest.raises(ExternalDataError, match="outside"):
        load(beside)


@pytest.mark.parametrize("entries", [{"offset": "8"}, {"offset": "-8"}, {"length": "40"}, {"offset": "many"}])
def test_external_data_of_the_wrong_size(beside, entries):
    _point(beside, **entries)
    with pytest.raises(ExternalDataError, match="'w'"):
        load(beside)


def test_external_data_claiming_a_terabyte(beside):
    model = onnx.load(beside, load_external_data=False)
    model.graph.initializer[0].dims[:] = [10**6, 10**6]
    beside.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="entries"):
        load(beside)


def test_external_data_without_a_folder(beside):
    for source in (beside.read_bytes(), onnx.load(beside, load_external_data=False)):
        with pytest.raises(ExternalDataError, match="path"):
            load(source)


def test_external_data_of_a_packed_model(beside):
    packed = beside.with_suffix(".onnx.gz")
    packed.write_bytes(gzip.compress(beside.read_bytes()))
    with pytest.raises(ExternalDataError, match="uncompressed"):
        load(packed)


# ---- weights ----------------------------------------------------------------------------------------


def test_claimed_size(gemm):
    gemm.graph.initializer[0].dims[:] = [3, 10**6]
    with pytest.raises(ModelFileError, match=r"'w'.*stores 48"):
        load(gemm)
    gemm.graph.initializer[0].dims[:] = [10**6, 10**6]
    with pytest.raises(ModelFileError, match="entries"):
        load(gemm)
    gemm.graph.initializer[0].dims[:] = [-3, -4]
    with pytest.raises(ModelFileError, match="negative"):
        load(gemm)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", ["Gemm", "Add", "Mul", "PRelu", "Max", "MatMul", "Concat"])
def test_weights_that_are_not_finite(zoo, op, bad):
    weights = W[:, :3].copy() if op in ("Gemm", "MatMul") else W[:1, :3].copy()
    weights[0, 1] = bad
    if op == "Max" and bad == -np.inf:
        pytest.skip("never the largest")
    extra = {"axis": 0} if op == "Concat" else {}
    model = zoo.model([node(op, "x,bad", "y", **extra)], {"bad": weights}, {"x": [1, 3]})
    with pytest.raises(ModelFileError, match=r"'bad'.*NaN or infinite"):
        load(model)


def test_infinite_clip_bounds_are_fine(zoo):
    zoo.agrees(zoo.model([node("Clip", "x,l,u")], {"l": np.float32(-np.inf), "u": np.float32(np.inf)}))


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("ConstantOfShape", "s", "c"), node("ReduceSum", "c", "d"), node("Add", "x,d")], {"s": [10**6, 10**6]}),
        ([node("Expand", "x,s")], {"s": [10**9, 1, 3]}),
        ([node("Tile", "x,s")], {"s": [10**5, 10**5]}),
        ([node("Pad", "x,s")], {"s": [0, 0, 0, 10**11]}),
        ([node("Range", "a,b,c", "r"), node("ReduceSum", "r", "d"), node("Add", "x,d")], {"a": 0, "b": 10**12, "c": 1}),
    ],
)
def test_results_nobody_embeds(nodes, constants):
    constants = {k: np.asarray(v, np.int64) for k, v in constants.items()}
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, ins, outs, **a) for op, ins, outs, a in nodes],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(v, k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    with pytest.raises(ModelFileError, match=r"entries|shape inference"):
        load(model)


# ---- inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [["N", "T", 3], [1, None, 3], ["N"], [2, "T"]])
def test_open_axes(zoo, shape):
    with pytest.raises(ModelFileError, match=r"input 'x': axis \d.* leading batch axis"):
        load(zoo.model([node("Relu")], inputs={"x": shape}))


def test_input_without_shape_or_of_another_kind(zoo):
    for change, words in (
        (lambda t: t.tensor_type.ClearField("shape"), "declares no shape"),
        (lambda t: setattr(t.tensor_type, "elem_type", TensorProto.STRING), "string"),
        (lambda t: setattr(t.tensor_type, "elem_type", TensorProto.BOOL), "bool"),
        (lambda t: setattr(t.tensor_type, "elem_type", TensorProto.COMPLEX64), "complex"),
        (lambda t: t.sequence_type.elem_type.tensor_type.ClearField("shape"), "tensor"),
    ):
        model = zoo.model([node("Relu")])
        change(model.graph.input[0].type)
        with pytest.raises(ModelFileError, match=words):
            load(model)


def test_no_inputs(zoo):
    with pytest.raises(ModelFileError, match="no inputs"):
        load(zoo.model([node("Relu")], {"x": W}, {}))


def test_types_that_clash(zoo):
    model = zoo.model([node("Relu", "x", "h"), node("Relu", "h", "y")], inputs={"x": (["N", 3], TensorProto.DOUBLE)})
    del model.graph.node[1]
    model.graph.node.append(helper.make_node("Gemm", ["h", "w"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(W, "w"))
    with pytest.raises(ModelFileError, match="'h' is float64 and 'w' is float32"):
        load(model)


def test_batch_points_that_mix(zoo):
    model = zoo.model([node("ReduceMean", "x", "m", axes=[0], keepdims=1), node("Sub", "x,m", "y")])
    with pytest.raises(SelfCheckFailed):
        load(model)
    with pytest.raises(ModelFileError, match="mixes points"):
        load(zoo.model([node("ReduceSum", "x", "y", keepdims=0)], inputs={"x": ["N", 3]}))


# ---- the graph --------------------------------------------------------------------------------------


def test_all_refusals_at_once(zoo):
    nodes = [
        node("Sigmoid", "x", "a"),
        node("Gemm", "a,w", "b"),
        node("Relu", "b", "c"),
        node("MatMul", "c,d", "e"),
        node("Transpose", "c", "d"),
        node("MaxPool", "img", "p,q", kernel_shape=[2, 2]),
        node("Softmax", "c", "y"),
    ]
    model = zoo.model(
        [nodes[0], nodes[1], nodes[2], nodes[4], nodes[3], nodes[5], nodes[6]],
        {"w": W},
        {"x": [1, 3], "img": [1, 1, 4, 4]},
        ("y", "q"),
    )
    with pytest.raises(UnsupportedOperators) as caught:
        load(model)
    assert len(caught.value.problems) == 4
    text = str(caught.value)
    for word in ("Sigmoid_0", "MatMul_4", "MaxPool_5", "Indices", "Softmax_6"):
        assert word in text
    records = {r.node: r for r in survey(model)}
    assert [r.status for r in records.values()].count("refused") == 4
    assert records["Relu_2"].kind == "piecewise linear"
    assert records["Gemm_1"].kind == "affine"


def test_what_lies_behind_a_refusal_of_unknown_shape(zoo):
    nodes = [node("NonZero", "x", "n"), node("Cast", "n", "f", to=1), node("Relu", "f", "r"), node("Tanh", "r", "y")]
    statuses = [r.status for r in survey(zoo.model(nodes))]
    assert statuses == ["refused", "unread", "unread", "refused"]


@pytest.mark.parametrize(
    ("nodes", "constants", "words"),
    [
        ([node("Relu", "x", "y", alpha=1.0)], {}, "'alpha' is unknown"),
        ([node("LeakyRelu", "x", "y", alpha="steep")], {}, "wrong type"),
        ([node("Nonsense")], {}, "no such operator"),
        ([node("Upsample", "x,s", "y")], {"s": np.ones(2, np.float32)}, "deprecated"),
        ([node("Mul", "x,x")], {}, "not piecewise linear"),
        ([node("Div", "one,x")], {"one": np.float32(1)}, "divides"),
        ([node("Div", "x,none")], {"none": np.float32(0)}, "zero"),
        ([node("Conv", "x,x")], {}, "kernel"),
        ([node("PRelu", "x,x")], {}, "slope"),
        ([node("Clip", "x,lo")], {}, "min"),
        ([node("RandomUniform", "", "r", shape=[3]), node("Add", "x,r")], {}, "random"),
        ([node("Cast", "x", "y", to=TensorProto.INT64)], {}, "truncates"),
        ([node("Cast", "x", "y", to=TensorProto.FLOAT16)], {}, "rounds"),
        ([node("ThresholdedRelu")], {}, "not continuous"),
    ],
)
def test_refusals(zoo, nodes, constants, words):
    inputs = {"x": [1, 1, 3, 3], "lo": []} if nodes[0][0] == "Clip" else {"x": [1, 1, 3, 3]}
    model = zoo.model([node("Relu", "x", "h")], constants, inputs)
    del model.graph.node[:]
    model.graph.node.extend(helper.make_node(op, ins, outs, **a) for op, ins, outs, a in nodes)
    model.graph.output[0].name = "y"
    with pytest.raises(UnsupportedOperators, match=words):
        load(model)


def test_damaged_graphs(zoo):
    model = zoo.model([node("Relu")])
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelFileError, match="nowhere"):
        load(model)
    model = zoo.model([node("Relu")])
    model.graph.output[0].name = "nothing"
    with pytest.raises(ModelFileError, match="nothing"):
        load(model)
    model = zoo.model([node("Relu", "x", "y")])
    model.graph.node.append(helper.make_node("Abs", ["x"], ["y"]))
    with pytest.raises(ModelFileError, match="written twice"):
        load(model)


def test_a_wrong_reading_is_caught(zoo, gemm):
    readers = [r for r in builtin_readers() if r.op_type != "Relu"]

    @reads("Relu")
    def wrong(context):
        return context.select(context.symbol(0), context.symbol(0).positions)

    with pytest.raises(SelfCheckFailed, match="read wrongly"):
        load(gemm, readers=[*readers, wrong])


def test_two_readers_for_one_operator(gemm):
    other = BuiltinReader("", "Relu", 1, False, lambda context: context.symbol(0))
    with pytest.raises(PluginError, match="Relu"):
        load(gemm, readers=[*builtin_readers(), other])


def test_a_newer_reader_wins(zoo):
    @reads("Relu", since=14)
    def steeper(context):
        return context.symbol(0)

    model = zoo.model([node("Relu", "x", "y")])
    assert load(model, check=False, readers=[*builtin_readers(), steeper])([-1.0, 1.0, 2.0])[0] == -1.0
    old = zoo.model([node("Relu", "x", "y")], opset=13)
    assert load(old, check=False, readers=[*builtin_readers(), steeper])([-1.0, 1.0, 2.0])[0] == 0.0
