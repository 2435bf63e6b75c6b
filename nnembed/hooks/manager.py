"""Loading plugins and keeping what they contribute.

Entry points of the group ``nnembed`` are loaded one by one: a plugin that fails to import is reported with the name of
its distribution and left out; nothing else is affected. ``NNEMBED_DISABLE_PLUGINS`` (comma-separated distribution or
entry point names) leaves plugins out on purpose.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pluggy

from nnembed.errors import PluginError, UnknownName
from nnembed.events import Event
from nnembed.features import Availability, Capability, Feature
from nnembed.hooks import NAME, builtin, specs
from nnembed.protocols import Command

#: hook name -> (extension point, attributes every contribution must have)
POINTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "nnembed_op_readers": ("op reader", ("domain", "op_type", "since", "read")),
    "nnembed_bound_tighteners": ("bound tightener", ("name", "summary", "sound", "cost", "tighten")),
    "nnembed_surrogates": ("surrogate", ("name", "summary", "sound", "build")),
    "nnembed_formulations": (
        "formulation",
        ("name", "summary", "emits", "handles", "exact", "needs_finite_bounds", "emit"),
    ),
    "nnembed_lowerings": ("lowering", ("name", "summary", "removes", "emits", "cost", "apply")),
    "nnembed_backends": ("backend", ("name", "summary", "accepts", "capabilities", "available", "load")),
    "nnembed_hosts": (
        "host",
        ("name", "summary", "accepts", "owns", "parse", "input_box", "attach", "declare", "compile", "load"),
    ),
    "nnembed_heuristics": ("heuristic", ("name", "summary", "requires", "run")),
}


class PluginWarning(UserWarning):
    """A plugin could not be loaded."""


@dataclass(frozen=True)
class Entry:
    """One contribution as `nnembed plugins` lists it."""

    extension_point: str
    name: str
    summary: str
    distribution: str
    available: bool
    reason: str


@dataclass(eq=False)
class Registry:
    """What is installed, by extension point and name."""

    plugins: pluggy.PluginManager
    problems: list[str]
    disabled: tuple[str, ...] = ()
    _parts: dict[str, dict[str, tuple[Any, str]]] = field(default_factory=dict)

    def parts(self, point: str) -> dict[str, Any]:
        """Return name -> object of an extension point."""
        return {name: part for name, (part, _) in self._collected(point).items()}

    def get(self, point: str, choice: object) -> Any:
        """Return a part by name; an object that has the part's attributes is returned as it is.

        Raises
        ------
        UnknownName
            If no plugin registered the name.
        """
        hook = _hook_of(point)
        if not isinstance(choice, str):
            _check_shape(hook, choice, "the object passed")
            return choice
        parts = self.parts(point)
        if choice not in parts:
            raise UnknownName(point, choice, parts)
        return parts[choice]

    def readers(self) -> list[Any]:
        """Return all op readers; later plugins win over built-ins for the same operator."""
        return list(self.parts("op reader").values())

    def commands(self) -> list[Command]:
        """Return the subcommands of plugins."""
        return [c for group in self.plugins.hook.nnembed_commands() for c in group]

    def notify(self, event: Event) -> None:
        """Tell observers."""
        self.plugins.hook.nnembed_event(event=event)

    def entries(self) -> list[Entry]:
        """Return every contribution, in the order of the extension points."""
        found = []
        for point, _ in POINTS.values():
            for name, (part, distribution) in self._collected(point).items():
                state = part.available() if point == "backend" else Availability.FULL
                found.append(Entry(point, name, _summary(part), distribution, bool(state), state.reason))
        return found

    def _collected(self, point: str) -> dict[str, tuple[Any, str]]:
        if point not in self._parts:
            self._parts[point] = self._collect(_hook_of(point), point)
        return self._parts[point]

    def _collect(self, hook: str, point: str) -> dict[str, tuple[Any, str]]:
        parts: dict[str, tuple[Any, str]] = {}
        for source, plugin in self.plugins.list_name_plugin():
            function = getattr(plugin, hook, None)
            if function is None:
                continue
            for part in function():
                _check_shape(hook, part, f"plugin {source}")
                name = _name(part)
                if name in parts and point != "op reader":
                    raise PluginError(
                        f"{point} {name!r} is registered by {parts[name][1]} and by {source}; "
                        "disable one of them with NNEMBED_DISABLE_PLUGINS"
                    )
                parts[name] = (part, source)
        return parts


def _hook_of(point: str) -> str:
    return next(hook for hook, (name, _) in POINTS.items() if name == point)


def _name(part: Any) -> str:
    if hasattr(part, "op_type"):
        return f"{part.domain or 'ai.onnx'}.{part.op_type}@{part.since}"
    return str(part.name)


def _summary(part: Any) -> str:
    return f"ONNX {part.op_type} since opset {part.since}" if hasattr(part, "op_type") else str(part.summary)


def _check_shape(hook: str, part: Any, source: str) -> None:
    lacking = [name for name in POINTS[hook][1] if not hasattr(part, name)]
    if lacking:
        raise PluginError(f"{source}: {part!r} is no {POINTS[hook][0]}, it lacks {', '.join(lacking)}")
    for name, kind in (("emits", Feature), ("accepts", Feature), ("capabilities", Capability)):
        if name in POINTS[hook][1] and not isinstance(getattr(part, name), kind):
            raise PluginError(f"{source}: {part!r}.{name} must be a {kind.__name__}")


def build(
    entry_points: Iterable[importlib.metadata.EntryPoint] = (),
    extra: Sequence[tuple[str, object]] = (),
    disable: str = "",
) -> Registry:
    """Return a registry of the built-ins, then `extra` (name, plugin) pairs, then entry points.

    pluggy calls the plugin registered last first, so built-ins answer decisions last.
    """
    from nnembed.formulations import auto

    plugins = pluggy.PluginManager(NAME)
    plugins.add_hookspecs(specs)
    for module in (auto, builtin):
        plugins.register(module, name="nnembed" if module is builtin else "nnembed (auto)")
    disabled = tuple(name.strip() for name in disable.split(",") if name.strip())
    problems: list[str] = []
    for name, plugin in extra:
        _register(plugins, functools.partial(_itself, plugin), name, problems)
    for entry in entry_points:
        distribution = entry.dist.name if entry.dist else entry.value
        if entry.name in disabled or distribution in disabled:
            continue
        _register(plugins, entry.load, distribution, problems)
    return Registry(plugins, problems, disabled)


def _itself(plugin: object) -> object:
    return plugin


def _register(plugins: pluggy.PluginManager, load: Callable[[], object], source: str, problems: list[str]) -> None:
    """Load one plugin; whatever its import raises is its own fault and must not stop the others."""
    try:
        plugin = load()
        plugins.register(plugin, name=source)
        plugins.check_pending()
    except Exception as error:  # noqa: BLE001 - foreign code: report it by name and go on
        if (broken := plugins.get_plugin(source)) is not None:
            plugins.unregister(broken)
        problems.append(f"{source}: {type(error).__name__}: {error}")
        warnings.warn(f"nnembed plugin of {source} is left out: {error}", PluginWarning, stacklevel=2)


@functools.cache
def registry() -> Registry:
    """Return the registry of this process: built-ins and all installed entry points."""
    found = importlib.metadata.entry_points(group=NAME)
    return build(found, disable=os.environ.get("NNEMBED_DISABLE_PLUGINS", ""))
