"""Plots are drawn from what results, bounds and networks hold, and written whole."""

from dataclasses import dataclass

import numpy as np
import pytest

from nnembed.bounds.box import Bounds, Provenance
from nnembed.errors import InputError, Unavailable
from nnembed.ir.linear import Dense
from nnembed.ir.network import Network, TensorSpec
from nnembed.ir.nodes import Affine, Max, relu
from nnembed.report import plots

pytest.importorskip("matplotlib")


@dataclass
class Entry:
    seconds: float
    objective: float | None
    bound: float | None
    source: str = ""


def small_network(width=6, depth=2, seed=0):
    """A random ReLU network with a skip connection at the end and a maximum of pairs."""
    rng = np.random.default_rng(seed)
    nodes, last, size = [], "x", 3
    tensors = {"x": TensorSpec("x", (3,))}
    for k in range(depth):
        nodes.append(
            Affine(f"fc{k}", (last,), f"g{k}", (Dense(rng.normal(size=(width, size))),), rng.normal(size=width))
        )
        nodes.append(relu(f"relu{k}", f"g{k}", f"h{k}", width))
        tensors |= {f"g{k}": TensorSpec(f"g{k}", (width,)), f"h{k}": TensorSpec(f"h{k}", (width,))}
        last, size = f"h{k}", width
    nodes.append(Max("pool", (last,), "p", np.arange(width).reshape(-1, 2)))
    tensors["p"] = TensorSpec("p", (width // 2,))
    skip = (Dense(rng.normal(size=(2, width // 2))), Dense(rng.normal(size=(2, 3))))
    nodes.append(Affine("out", ("p", "x"), "y", skip, np.zeros(2)))
    tensors["y"] = TensorSpec("y", (2,))
    return Network((tensors["x"],), (tensors["y"],), tuple(nodes), tensors, name="small")


def bounds_of(network, spread=1.0, seed=1):
    rng = np.random.default_rng(seed)
    low, high = {}, {}
    for name, spec in network.tensors.items():
        centre = rng.normal(size=(1, spec.size))
        low[name], high[name] = centre - spread, centre + spread
    return Bounds(network, low, high, (), (Provenance("interval", 0.1, 0), Provenance("crown", 0.2, 0)))


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_history_carries_values_forward_and_marks_the_finders():
    history = [
        Entry(0.1, None, 9.0, "crown"),
        Entry(0.2, 3.0, None, "walk"),
        Entry(0.5, 3.0, 8.0, "highs"),
        Entry(1.0, 5.0, 5.0, "highs"),
    ]
    axes = plots.plot_history(history).axes[0]
    drawn = lines(axes)
    np.testing.assert_array_equal(drawn["proven bound"].get_ydata(), [9, 9, 8, 5])
    np.testing.assert_array_equal(drawn["best answer"].get_ydata(), [np.nan, 3, 3, 5])
    np.testing.assert_array_equal(drawn["found by walk"].get_xydata(), [[0.2, 3.0]])
    np.testing.assert_array_equal(drawn["found by highs"].get_xydata(), [[1.0, 5.0]])


def test_history_keeps_a_wild_first_bound_from_flattening_the_rest():
    history = [Entry(0, None, 1e6), Entry(1, 3.0, 1e6), Entry(2, 4.0, 4.5)]
    axes = plots.plot_history(history).axes[0]
    assert axes.get_ylim()[1] < 20
    assert "1e+06" in axes.get_title(loc="right")


@pytest.mark.parametrize(
    "history",
    [
        [],
        [Entry(0.0, None, None)],
        [Entry(0.0, None, float("inf"))],
        [Entry(0.0, None, 1.0)],
        [Entry(0.0, 1.0, None)],
        [Entry(0.3, 2.0, 2.0)],
        [Entry(float(k), float(k), 100.0, f"method {k}") for k in range(30)],
    ],
)
def test_any_history_can_be_drawn_and_written(history, tmp_path):
    target = plots.save(plots.plot_history(history), tmp_path / "h.png")
    assert target.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["h.png"]


def test_history_draws_on_axes_given():
    figure = plots.new_figure(4, 3)
    axes = figure.add_subplot()
    assert plots.plot_history([Entry(0, 1.0, 2.0)], ax=axes) is figure
    assert axes.get_title(loc="left")


def test_bounds_have_a_panel_per_layer_with_its_undecided_neurons():
    network = small_network()
    bounds = bounds_of(network)
    figure = plots.plot_bounds(bounds)
    assert len(figure.axes) == len(network.activations) == 3
    for axes, node in zip(figure.axes[:2], network.activations[:2], strict=True):
        assert f"{int(bounds.open(node).sum())} undecided" in axes.get_title(loc="left")


def test_bounds_say_what_is_left_out(monkeypatch):
    monkeypatch.setattr(plots, "_MOST_LAYERS", 1)
    monkeypatch.setattr(plots, "_MOST_NEURONS", 4)
    figure = plots.plot_bounds(bounds_of(small_network()))
    assert "first 1 of 3 layers" in figure.get_suptitle()
    assert "4 shown" in figure.axes[0].get_title(loc="left")


def test_bounds_that_are_incomplete_are_refused():
    network = small_network()
    with pytest.raises(InputError, match="larger budget"):
        plots.plot_bounds(Bounds(network, {}, {}))


def test_network_has_a_box_per_node_input_and_output(tmp_path):
    network = small_network()
    figure = plots.plot_network(network)
    texts = [t.get_text() for t in figure.axes[0].texts if t.get_text()]
    assert len(texts) == len(network.nodes) + 2
    assert plots.save(figure, tmp_path / "net.svg").stat().st_size > 1000


def test_unknown_ending_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"picture\.xyz.*png"):
        plots.save(plots.new_figure(1, 1), tmp_path / "picture.xyz")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(Unavailable, match=r"nnembed\[plot\]"):
        plots.plot_history([])
