"""Bounds kept in files, and taken up again where a budget ended.

One file per network, box, region and method with its options, named by a hash of their content and of the version of
this library. A file is never trusted: it must be of the size, form and check sum that its name asks for, hold finite
ranges that are not empty, and contain what forward passes give at points of the box; otherwise it is ignored with a
warning. No pickles are read or written, and files are put in place whole.

What a method had found when its budget ended is kept as well, marked as not finished: a later run begins with these
bounds and with the method's own notes (`Provenance.state`), so nothing is computed twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nnembed import __version__
from nnembed.aliases import Array
from nnembed.bounds.box import Bounds, Provenance
from nnembed.errors import InputError
from nnembed.ir.network import feed
from nnembed.options import Budget
from nnembed.protocols import BoundTightener

_FORMAT = 1
_CHEAP = 10  # methods of at most this cost are kept only when they took a while
_A_WHILE = 0.1  # seconds
_SAMPLES = 64
_ROOM = 1 << 20  # bytes of a file beside its bounds
# Everything that reading a file of unknown origin has been seen to raise.
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, NotImplementedError, RuntimeError, SyntaxError,
    zipfile.BadZipFile,
)  # fmt: skip


def cache_at(where: Any) -> BoundCache | None:
    """Return the cache an option stands for.

    Parameters
    ----------
    where : path, True, None or False
        A folder, made when something is stored; True is the user's own cache folder.

    Raises
    ------
    InputError
        If it is neither, or a file.
    """
    if where is None or where is False:
        return None
    if where is True:
        return BoundCache(user_folder())
    if not isinstance(where, str | os.PathLike):
        raise InputError(f"cache= is a {type(where).__name__}; pass a folder, or True for the user's cache folder")
    folder = Path(where).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cache={str(folder)!r} is a file; pass a folder, for example {str(folder) + '.bounds'!r}")
    return BoundCache(folder)


def user_folder() -> Path:
    """Return the folder for cached bounds where this platform keeps such things."""
    home = os.environ.get("XDG_CACHE_HOME")
    if home:
        return Path(home) / "nnembed" / "bounds"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return base / "nnembed" / "bounds"


class _Unfit(Exception):
    """A cache file that is not what its name says."""


@dataclass(frozen=True, eq=False)
class BoundCache:
    """Bounds in the files of a folder."""

    folder: Path

    def through(
        self,
        method: BoundTightener,
        bounds: Bounds,
        budget: Budget,
        step: Callable[[BoundTightener, Bounds, Budget], Bounds],
    ) -> Bounds:
        """Return what `step` would: from a file, or computed and kept, or both where the file is not finished."""
        if not bounds.network.tensors.keys() or not _finite_box(bounds):
            return step(method, bounds, budget)
        file = self.folder / f"{key_of(method, bounds)}.npz"
        known = self._read(file, method, bounds)
        if known is not None:
            bounds = known
            if known.history[-1].finished:
                return known
        clock = budget.start()
        found = step(method, bounds, budget)
        record = found.history[-1]
        spent = clock.expired or (budget.lps is not None and record.lps >= budget.lps)
        if spent and record.finished:
            record = replace(record, finished=False)
            found = replace(found, history=(*found.history[:-1], record))
        if method.cost > _CHEAP or clock.elapsed > _A_WHILE:
            self._write(file, found)
        return found

    def _read(self, file: Path, method: BoundTightener, bounds: Bounds) -> Bounds | None:
        """Return `bounds` narrowed by what a file holds; None without a file that can be used."""
        started = time.perf_counter()
        try:
            with file.open("rb") as stream:
                low, high, record = _load(stream, bounds, file.stem)
        except FileNotFoundError:
            return None
        except (*_UNREADABLE, _Unfit) as error:
            reason = str(error) or type(error).__name__
            warnings.warn(f"ignored the cached bounds in {file}: {reason}", RuntimeWarning, stacklevel=6)
            return None
        if bounds.region is None and (tensor := _refuted(bounds, low, high)):
            warnings.warn(
                f"ignored the cached bounds in {file}: a point of the box leaves those of {tensor!r}",
                RuntimeWarning,
                stacklevel=6,
            )
            return None
        record = replace(record, method=method.name, seconds=time.perf_counter() - started, lps=0, cached=True)
        return bounds.intersect(low, high, record)

    def _write(self, file: Path, found: Bounds) -> None:
        """Keep bounds; a folder that cannot be written costs no more than a warning."""
        content = _content(found, file.stem)
        temporary = file.with_name(f".{file.stem}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as stream:
                np.savez(stream, **content)  # type: ignore[arg-type]
            temporary.replace(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            warnings.warn(f"the bounds were not kept in {self.folder}: {error}", RuntimeWarning, stacklevel=6)


def key_of(method: BoundTightener, bounds: Bounds) -> str:
    """Return the name under which the result of a method on these inputs is kept."""
    h = hashlib.sha256()
    feed(h, (_FORMAT, __version__, bounds.network.digest, tuple(bounds.network.tensors), method.name, method))
    for spec in bounds.network.inputs:
        feed(h, (bounds.low[spec.name] + 0.0, bounds.high[spec.name] + 0.0))
    feed(h, bounds.region)
    return f"{method.name}-{h.hexdigest()[:40]}" if method.name.isidentifier() else h.hexdigest()[:40]


def _finite_box(bounds: Bounds) -> bool:
    sides = [side[s.name] for s in bounds.network.inputs for side in (bounds.low, bounds.high)]
    return all(np.isfinite(side).all() for side in sides)


def _content(found: Bounds, key: str) -> dict[str, Array]:
    """Return the arrays of a file."""
    record = found.history[-1]
    names = sorted(name for name, value in record.state.items() if np.asarray(value).dtype != object)  # no pickles
    facts = {"format": _FORMAT, "key": key, "seconds": record.seconds, "finished": record.finished, "state": names}
    facts["sound"] = found.sound
    content = {"facts": np.array(json.dumps(facts))}
    for place, tensor in enumerate(found.network.tensors):
        content[f"low{place}"], content[f"high{place}"] = found.low[tensor], found.high[tensor]
    for place, name in enumerate(names):
        content[f"state{place}"] = np.asarray(record.state[name])
    content["checksum"] = np.array(_checksum(content))
    return content


def _checksum(content: Mapping[str, Array]) -> str:
    h = hashlib.sha256()
    for name in sorted(content.keys() - {"checksum"}):
        feed(h, (name, content[name]))
    return h.hexdigest()


def _load(stream: BinaryIO, bounds: Bounds, key: str) -> tuple[dict[str, Array], dict[str, Array], Provenance]:
    """Return bounds of all tensors and the method's record from a file.

    Raises
    ------
    _Unfit
        If the file is whole but not what was asked for; other errors where it cannot be read at all.
    """
    network, batch = bounds.network, bounds.batch
    expected = sum(16 * batch * spec.size for spec in network.tensors.values())
    with zipfile.ZipFile(stream) as archive:
        if sum(item.file_size for item in archive.infolist()) > 2 * expected + _ROOM + 1024 * len(network.tensors):
            raise _Unfit("it is larger than bounds of this network can be")
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as archive:
        content = {name: archive[name] for name in archive.files}
    facts = json.loads(str(content["facts"]))
    if facts["format"] != _FORMAT or facts["key"] != key or str(content["checksum"]) != _checksum(content):
        raise _Unfit("it was written for something else, or changed since")
    low, high = {}, {}
    for place, (tensor, spec) in enumerate(network.tensors.items()):
        lo, hi = content[f"low{place}"], content[f"high{place}"]
        for side in (lo, hi):
            if side.shape != (batch, spec.size) or side.dtype != np.float64 or not np.isfinite(side).all():
                raise _Unfit(f"its bounds of {tensor!r} do not fit the network")
        if (lo > hi).any():
            raise _Unfit(f"its bounds of {tensor!r} are empty")
        low[tensor], high[tensor] = lo, hi
    state = {name: content[f"state{place}"] for place, name in enumerate(facts["state"])}
    record = Provenance(
        "", float(facts["seconds"]), -1, bool(facts["sound"]), finished=bool(facts["finished"]), state=state
    )
    return low, high, record


def _refuted(box: Bounds, low: Mapping[str, Array], high: Mapping[str, Array]) -> str | None:
    """Return a tensor that leaves the bounds `low`, `high` at some point of the box, None where none is found."""
    rng, batch = np.random.default_rng(0), box.batch
    points: dict[str, Array] = {}
    for spec in box.network.inputs:
        share = rng.uniform(-0.2, 1.2, (_SAMPLES, batch, spec.size)).clip(0.0, 1.0)  # many entries at their ends
        share[0], share[1], share[2] = 0.0, 1.0, 0.5
        lo, hi = box.low[spec.name], box.high[spec.name]
        points[spec.name] = np.clip(lo + share * (hi - lo), lo, hi).reshape(-1, spec.size)
    for tensor, value in box.network.forward(points).items():
        inside = value.reshape(_SAMPLES, batch, -1)
        pad = 1e-9 * (1 + np.maximum(np.abs(low[tensor]), np.abs(high[tensor])))
        if ((inside < low[tensor] - pad) | (inside > high[tensor] + pad)).any():
            return tensor
    return None
