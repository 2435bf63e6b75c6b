"""The page about a network is one file, escaped, and tells everything."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, relu
from nnembed.report.describe import Description, Operator
from nnembed.report.html import page
from nnembed.report.layout import arrange

VOID = {"meta", "br", "rect", "path", "input"}


class Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def branched():
    """x -> a -> relu -> b with a second input and a skip from x."""
    specs = {n: TensorSpec(n, (2,)) for n in ("x", "z", "a", "r", "<y>")}
    eye = Dense(np.eye(2))
    nodes = (
        Affine("first", ("x",), "a", (eye,), np.zeros(2)),
        relu("act & co", "a", "r", 2),
        Affine("last", ("r", "x", "z"), "<y>", (eye, eye, eye), np.zeros(2)),
    )
    return Network((specs["x"], specs["z"]), (specs["<y>"],), nodes, specs, name="branched")


def about(network, refused=()):
    operators = (
        Operator("Gemm", "exact", 2),
        Operator("Relu", "piecewise", 1),
        Operator("<Odd>", "refused", 1, "no & never"),
    )
    properties = (("file", "a<b>.onnx"), ("parameters", 1234), ("opset", "ai.onnx 17"), ("neurons", 2))
    return Description(Path("a<b>.onnx"), properties, operators, network, refused)


def test_the_page_is_whole_and_escaped():
    text = page(about(branched()))
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert {"svg", "table", "style", "title"} <= set(parser.seen)
    assert not {"script", "link", "img", "iframe"} & set(parser.seen)
    assert "http" not in text
    for escaped in ("a&lt;b&gt;.onnx", "act &amp; co", "&lt;Odd&gt;", "no &amp; never", "&lt;y&gt;", "1,234"):
        assert escaped in text
    assert "<Odd>" not in text


def test_a_refused_network_has_its_reasons_and_no_graph():
    text = page(about(None, ("node <s>: Sin", "node t: Cos")))
    assert "cannot be embedded" in text
    assert "node &lt;s&gt;: Sin" in text
    assert "<svg" not in text


def test_every_arrow_goes_down_and_no_two_boxes_share_a_place():
    network = branched()
    picture = arrange(network)
    assert len(picture.cells) == 2 + 3 + 1
    assert len(picture.edges) == 1 + 1 + 3 + 1
    assert all(picture.cells[a].depth < picture.cells[b].depth for a, b in picture.edges)
    assert len({(c.depth, c.lane) for c in picture.cells}) == len(picture.cells)
    assert picture.cells[-1].depth == picture.depth - 1


def test_an_output_that_is_an_input():
    x = TensorSpec("x", (3, 2))
    picture = arrange(Network((x,), (x,), (), {"x": x}))
    assert [(c.role, c.detail) for c in picture.cells] == [("input", "3 x 2"), ("output", "3 x 2")]
