"""Every hook is in the page for plugin authors, and the page names no hook that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnembed.hooks import specs
from nnembed.hooks.manager import POINTS
from nnembed.testing.kit import checks_of

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text()
HOOKS = sorted(name for name in vars(specs) if name.startswith("nnembed_"))


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_is_documented(hook):
    assert f"`{hook}`" in PAGE


def test_no_hook_is_made_up():
    named = set(re.findall(r"\bnnembed_(?!zhat|scipy)\w+\b", PAGE))
    assert named <= set(HOOKS), named - set(HOOKS)


def test_every_check_is_documented():
    for point, _ in POINTS.values():
        for check in checks_of(point):
            assert f"`{check.__name__}`" in PAGE, check.__name__


def test_listed_checks_exist():
    known = {check.__name__ for point, _ in POINTS.values() for check in checks_of(point)} | {"check_x"}
    assert set(re.findall(r"`(check_\w+)`", PAGE)) <= known
