"""Train the classifier of the adversary example on scikit-learn's digits and write it as ONNX.

    python examples/train_digits.py --out examples/digits.onnx

needs scikit-learn and onnxruntime. Images are 8 x 8 with pixels from 0 to 1; the outputs are the ten scores before the
softmax. The same seed gives the same network.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def to_onnx(net):
    """Return a scikit-learn classifier as an ONNX graph that ends in the scores."""
    arrays, nodes, last = {}, [], len(net.coefs_)
    for k, (weight, bias) in enumerate(zip(net.coefs_, net.intercepts_, strict=True), start=1):
        arrays |= {f"W{k}": weight, f"b{k}": bias}
        source, target = "pixels" if k == 1 else f"h{k - 1}", "scores" if k == last else f"a{k}"
        nodes.append(helper.make_node("Gemm", [source, f"W{k}", f"b{k}"], [target], name=f"layer{k}"))
        if k < last:
            nodes.append(helper.make_node("Relu", [target], [f"h{k}"], name=f"relu{k}"))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def train(epochs, seed):
    """Train, report the accuracy on unseen images and return the ONNX model."""
    pixels, digits = load_digits(return_X_y=True)
    seen, unseen, seen_digits, unseen_digits = train_test_split(pixels / 16, digits, test_size=0.25, random_state=seed)
    net = MLPClassifier(hidden_layer_sizes=(50, 50), alpha=1e-2, max_iter=epochs, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few epochs on purpose
        net.fit(seen, seen_digits)

    model = to_onnx(net)
    scores = ort.InferenceSession(model.SerializeToString()).run(None, {"pixels": unseen.astype(np.float32)})[0]
    agreement = (scores.argmax(axis=1) == net.predict(unseen)).mean()
    print(f"accuracy on unseen images {net.score(unseen, unseen_digits):.3f}, ONNX agrees on {agreement:.1%} of them")
    return model


def main():
    """Read the command line, train and save."""
    parser = argparse.ArgumentParser(description="Train the digits classifier of the adversary example.")
    parser.add_argument("--out", type=Path, default=Path("digits.onnx"))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    onnx.save(train(args.epochs, args.seed), args.out)
    print(f"wrote {args.out} ({args.out.stat().st_size / 1024:.1f} kB)")


if __name__ == "__main__":
    main()
