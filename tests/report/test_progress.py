"""Progress is silent where nobody looks, a line on a terminal, a log where asked for."""

import io

import pytest

from nnembed.events import BlockEmitted, BoundsTightened, Event, HeuristicFinished, Incumbent, Solved
from nnembed.report.progress import Progress, State, relative_gap, show

EVENTS = [
    BoundsTightened(0.1, "crown", 74),
    BlockEmitted(0.2, "net", 300, 200, 74, 9000),
    HeuristicFinished(0.3, "walk", 3.5),
    Incumbent(0.4, 3.5, 10.0, "walk"),
    Incumbent(0.5, None, 7.0, "highs"),
    Solved(1.0, "optimal", 7.0, 7.0),
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def after(events):
    state = State()
    for event in events:
        state = state.after(event)
    return state


@pytest.mark.parametrize("progress", [None, False])
def test_silent_where_nobody_looks(progress):
    stream = io.StringIO()
    with show(progress, "maximise", stream) as hear:
        for event in EVENTS:
            hear(event)
    assert stream.getvalue() == ""


def test_false_is_silent_on_a_terminal_too():
    stream = Terminal()
    with show(False, "maximise", stream) as hear:
        hear(EVENTS[0])
    assert stream.getvalue() == ""


def test_true_writes_a_log_where_there_is_no_terminal():
    stream = io.StringIO()
    with show(True, "maximise", stream) as hear:
        for event in EVENTS:
            hear(event)
    log = stream.getvalue().splitlines()
    assert log[0].startswith("maximise: bounds (crown): 74 unstable")
    assert "300 rows" in log[1]
    assert "optimal, incumbent 7, bound 7, gap 0.00%" in log[-1]


def test_a_terminal_gets_a_line_that_disappears(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with show(None, "maximise", stream) as hear:
        for event in EVENTS[:-1]:
            hear(event)
        hear._live.refresh()
    text = stream.getvalue()
    assert "maximise" in text
    assert "incumbent 3.5" in text
    assert "gap 100.00%" in text


def test_state_keeps_what_an_event_does_not_tell():
    state = after(EVENTS[:5])
    assert (state.objective, state.bound, state.phase, state.source) == (3.5, 7.0, "solving", "highs")
    assert after([Event(0.0)]) == State()


@pytest.mark.parametrize(
    ("objective", "bound", "gap"),
    [
        (None, 1.0, None),
        (1.0, None, None),
        (2.0, 3.0, 0.5),
        (0.0, 0.0, 0.0),
        (1.0, float("inf"), None),
        (-4.0, -5.0, 0.25),
    ],
)
def test_gap(objective, bound, gap):
    assert relative_gap(objective, bound) == gap


def test_a_reader_that_has_gone_does_not_end_the_work():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with show(True, "x", Gone()) as hear:
        hear(EVENTS[0])


def test_a_closed_stream_is_no_terminal():
    stream = io.StringIO()
    stream.close()
    with show(None, "x", stream) as hear:
        hear(EVENTS[0])


def test_two_displays_at_once(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    with Progress("a", Terminal()) as outer, Progress("b", Terminal()) as inner:
        outer(EVENTS[0])
        inner(EVENTS[1])


def test_an_error_inside_passes_through():
    with pytest.raises(KeyboardInterrupt), show(True, "x", io.StringIO()):
        raise KeyboardInterrupt
