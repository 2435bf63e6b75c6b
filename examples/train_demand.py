"""Train the demand network of the pricing example on a simulated coffee market and write it as ONNX.

Sixty thousand store-weeks: three blends at random prices, in stores with different customers. The network learns how
many bags of each blend are sold. Its normalisation is part of the ONNX graph: it takes euros and returns bags.

    python examples/train_demand.py --out nnembed/demo/demand.onnx

needs scikit-learn and onnxruntime. The same seed gives the same network.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

BLENDS = ["house", "classic", "reserve"]


def demand(price, traits):
    """Bags sold per week, (n, 3), at prices (n, 3) in stores (n, 3) with income, visitors and the rival's price.

    A customer buys one blend or none, so blends take customers from each other. Where incomes are low, prices matter
    more; everywhere a blend that is dearer than the rival's is punished (a kink), and no more is sold than the shelf
    holds (another).
    """
    income, visitors, rival = traits.T[:, :, None]
    appeal = np.array([2.3, 2.8, 4.0]) + np.array([-0.3, 0.0, 0.3]) * (income - 40) / 15
    excess = np.maximum(price - rival * np.array([0.85, 1.0, 1.4]), 0)
    weight = np.exp(appeal - 20 / income * price - 0.5 * excess)
    sold = 0.12 * visitors * weight / (1 + weight.sum(axis=1, keepdims=True))
    return np.minimum(sold, np.array([90, 80, 70]))


def simulate(rng, n):
    """Return n store-weeks: prices with traits, (n, 6), and what the till counted, demand with 5 % noise, (n, 3)."""
    price = rng.uniform([3.5, 5.0, 7.0], [7.5, 9.5, 13.0], size=(n, 3))
    traits = rng.uniform([25, 500, 5.0], [65, 3000, 9.0], size=(n, 3))
    return np.hstack([price, traits]), demand(price, traits) * rng.normal(1, 0.05, size=(n, 3))


def to_onnx(net, inputs, outputs):
    """Return a scikit-learn regressor between its two scalers as one ONNX graph."""
    arrays = {"x_mean": inputs.mean_, "x_scale": inputs.scale_, "y_mean": outputs.mean_, "y_scale": outputs.scale_}
    nodes = [
        helper.make_node("Sub", ["x", "x_mean"], ["centred"]),
        helper.make_node("Div", ["centred", "x_scale"], ["h0"]),
    ]
    last = len(net.coefs_)
    for k, (weight, bias) in enumerate(zip(net.coefs_, net.intercepts_, strict=True), start=1):
        arrays |= {f"W{k}": weight, f"b{k}": bias}
        nodes.append(helper.make_node("Gemm", [f"h{k - 1}", f"W{k}", f"b{k}"], [f"a{k}"], name=f"layer{k}"))
        if k < last:
            nodes.append(helper.make_node("Relu", [f"a{k}"], [f"h{k}"], name=f"relu{k}"))
    nodes.append(helper.make_node("Mul", [f"a{last}", "y_scale"], ["spread"]))
    nodes.append(helper.make_node("Add", ["spread", "y_mean"], ["units"]))
    graph = helper.make_graph(
        nodes,
        "demand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("units", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
        doc_string="in: 3 prices, income (kEUR a year), visitors a week, price of the rival; out: bags a week",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def train(samples, epochs, seed):
    """Train, report the fit on unseen weeks and return the ONNX model."""
    rng = np.random.default_rng(seed)
    x, sold = simulate(rng, samples)
    inputs, outputs = StandardScaler().fit(x), StandardScaler().fit(sold)
    net = MLPRegressor(
        hidden_layer_sizes=(16, 16), alpha=1e-3, batch_size=256, max_iter=epochs, early_stopping=True, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # early stopping on purpose, or few epochs in a test
        net.fit(inputs.transform(x), outputs.transform(sold))

    x, sold = simulate(rng, 10_000)
    guess = outputs.inverse_transform(net.predict(inputs.transform(x)))
    for blend, r2 in zip(BLENDS, r2_score(sold, guess, multioutput="raw_values"), strict=True):
        print(f"{blend:8} R2 on unseen weeks {r2:.3f}")

    model = to_onnx(net, inputs, outputs)
    replay = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x.astype(np.float32)})[0]
    print(f"largest difference between ONNX and scikit-learn: {np.abs(replay - guess).max():.1e} bags")
    return model


def main():
    """Read the command line, train and save."""
    parser = argparse.ArgumentParser(description="Train the demand network of the pricing example.")
    parser.add_argument("--out", type=Path, default=Path("demand.onnx"))
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    onnx.save(train(args.samples, args.epochs, args.seed), args.out)
    print(f"wrote {args.out} ({args.out.stat().st_size / 1024:.1f} kB)")


if __name__ == "__main__":
    main()
