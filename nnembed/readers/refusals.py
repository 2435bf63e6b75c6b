"""What to say about operators nobody reads exactly."""

from __future__ import annotations

_SMOOTH = """
    Sigmoid Tanh Softmax LogSoftmax Softplus Softsign Elu Selu Celu Gelu Mish Swish Exp Log Sqrt Reciprocal Pow Erf
    Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh HardSwish LayerNormalization InstanceNormalization LRN
    GroupNormalization RMSNormalization MeanVarianceNormalization LpNormalization LpPool GlobalLpPool ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceProd ReduceSumSquare Attention LSTM GRU RNN
"""
_STEPS = """
    Mod Equal And Or Xor TopK OneHot NonZero ThresholdedRelu Shrink Unique IsNaN IsInf DynamicQuantizeLinear
    NonMaxSuppression
"""
_CONTROL = "If Loop Scan SplitToSequence ConcatFromSequence Optional"
_FINAL = "Sigmoid Softmax LogSoftmax TopK"


def why_unknown(op_type: str, domain: str) -> str:
    """Return why an operator is not read and what to do instead."""
    if domain:
        return f"no reader for operators of domain {domain!r}; register an op reader for it, or export without it"
    cut = ""
    if op_type in _FINAL.split():
        cut = ", or, where it is the last layer, cut it off with onnx.utils.extract_model and use its input"
    if op_type in _SMOOTH.split():
        return f"it is not piecewise linear; train with Relu, LeakyRelu, Clip or HardSigmoid instead{cut}"
    if op_type in _STEPS.split():
        return f"it is not continuous; take it out of the model{cut}"
    if op_type in _CONTROL.split() or op_type.startswith("Sequence"):
        return "it is control flow; export with fixed control flow, or simplify the model first (onnxsim)"
    return f"no reader for this operator; simplify the model (onnxsim), or register an op reader for {op_type!r}"
