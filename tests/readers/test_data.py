"""Every network of the shared data: read right, or refused for a named reason."""

import os
from pathlib import Path

import pytest

from nnembed.errors import ModelFileError, UnsupportedOperators
from nnembed.readers import load

ROOT = Path(os.environ.get("NNEMBED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
FILES = sorted(ROOT.glob("**/*.onnx*")) if ROOT.is_dir() else []
REFUSED = {
    "ffnnSIGMOID__Point_6x200": "Sigmoid",
    "quadrotor2d_output": "Cos",
    "quadrotor2d_state": "Sin",
    "fc_2-2sigmoids-3": "Sigmoid",
    "dropout_training_mode_true": "training_mode",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "mnist2x5_sigmoid": "Sigmoid",
    "resize_4dims": "Resize",
    "robust_model_sigmoid_linear": "Sigmoid",
    "self-attention-mnist-pgd-medium-sim": "Softmax",
    "softmax-last-layer": "Softmax",
    "tanh_test": "Tanh",
}
CLASHING = ("NET_0_1.5_5", "NET_1_1.5_5", "NET_2_1.5_5")


def _name(path):
    return path.name.removesuffix(".gz").removesuffix(".onnx")


@pytest.mark.skipif(not FILES, reason="no shared data; set NNEMBED_DATA")
@pytest.mark.parametrize("path", FILES, ids=_name)
def test_network(path):
    name = _name(path)
    if name in REFUSED:
        with pytest.raises(UnsupportedOperators, match=REFUSED[name]):
            load(path)
    elif name in CLASHING:
        with pytest.raises(ModelFileError, match=r"float64 and .* is float32"):
            load(path)
    else:
        net = load(path)
        assert net.self_check(samples=4, seed=1) >= 0
