"""Boxes, weights and points as people give them on a command line: numbers, or a file."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnembed.errors import BoxError, InputError, UnknownName

if TYPE_CHECKING:
    from nnembed.aliases import Array
    from nnembed.ir.network import Network, TensorSpec

Side = Any  # a number, an array, or a dict of arrays by input name
_POINT_FILES = (".npy", ".npz", ".csv", ".json")
_POINT_FORMS = "a .npy, .npz, .csv or .json file"
_FORMS = 'two numbers "lo,hi" or a .json, .npz or .csv file'


def read_box(text: str) -> tuple[Side, Side]:
    """Return the box (lower, upper) that ``--box`` stands for.

    Parameters
    ----------
    text : str
        ``lo,hi`` or the path of a file: JSON with "lower" and "upper" (or an object of these by input name),
        NPZ with arrays of these names, CSV with two columns and one row per entry.

    Raises
    ------
    BoxError
        If the text or the file cannot be read; names the file, the line or key and the cure.
    """
    path = Path(text)
    readers = {".json": _box_from_json, ".npz": _box_from_npz, ".csv": _box_from_csv}
    if path.suffix.lower() in readers:
        _need_file(path, "--box", BoxError)
        return readers[path.suffix.lower()](path)
    if _exists(path):
        raise BoxError(f"--box {path}: unknown kind of file {path.suffix!r}; give {_FORMS}")
    try:
        lower, upper = (float(part) for part in text.split(","))
    except ValueError:
        raise BoxError(f"--box {text}: neither a file nor two numbers; give {_FORMS}") from None
    return lower, upper


def _box_from_json(path: Path) -> tuple[Side, Side]:
    content = _load_json(path, BoxError)
    if not isinstance(content, dict) or not content:
        raise BoxError(f'{path}: not an object; write {{"lower": [...], "upper": [...]}}, or such an object per input')
    if "lower" in content or "upper" in content:
        return _json_sides(path, content, "")
    for name, inner in content.items():
        if not isinstance(inner, dict):
            raise BoxError(
                f'{path}: key {name!r} is not an object with "lower" and "upper"; write '
                '{"lower": [...], "upper": [...]}, or such an object per input name'
            )
    sides = {name: _json_sides(path, inner, f"{name}.") for name, inner in content.items()}
    return {n: s[0] for n, s in sides.items()}, {n: s[1] for n, s in sides.items()}


def _json_sides(path: Path, content: Mapping[str, Any], prefix: str) -> tuple[Array, Array]:
    known = ("lower", "upper")
    for key in content:
        if key not in known:
            raise BoxError(f"{path}: {UnknownName('key', f'{prefix}{key}', [f'{prefix}{k}' for k in known])}")
    for key in known:
        if key not in content:
            raise BoxError(f'{path}: key "{prefix}{key}" is missing; a box has "lower" and "upper"')
    return _json_array(path, content["lower"], f"{prefix}lower"), _json_array(path, content["upper"], f"{prefix}upper")


def _json_array(path: Path, value: Any, key: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError:
        raise BoxError(f'{path}: key "{key}" is a ragged list; give rows of equal length') from None
    if array.dtype.kind not in "iuf" or not array.size:
        raise BoxError(f'{path}: key "{key}" holds something that is not a number; give a number or lists of numbers')
    return array.astype(float)


def _box_from_npz(path: Path) -> tuple[Side, Side]:
    cure = "save with np.savez(lower=, upper=)"
    arrays = _load_numpy(path, BoxError, cure)
    if isinstance(arrays, np.ndarray):
        raise BoxError(f"{path}: a single array, not an .npz archive; {cure}")
    sides = []
    for key in ("lower", "upper"):
        if key not in arrays:
            held = ", ".join(map(repr, arrays)) or "nothing"
            raise BoxError(f"{path}: array {key!r} is missing (it holds {held}); save with np.savez(lower=, upper=)")
        if arrays[key].dtype.kind not in "iuf":
            raise BoxError(f"{path}: array {key!r} holds {arrays[key].dtype}; save an array of numbers")
        sides.append(arrays[key].astype(float))
    return sides[0], sides[1]


def _box_from_csv(path: Path) -> tuple[Side, Side]:
    rows: list[tuple[float, float]] = []
    order = (0, 1)
    for line, cells in enumerate(csv.reader(_read_text(path, BoxError).splitlines()), start=1):
        if not any(cell.strip() for cell in cells):
            continue
        names = [cell.strip().lower() for cell in cells]
        if not rows and sorted(names) == ["lower", "upper"]:
            order = (names.index("lower"), names.index("upper"))
            continue
        if len(cells) != 2:
            raise BoxError(f"{path}, line {line}: {len(cells)} columns; a box has two, lower and upper")
        try:
            rows.append((float(cells[order[0]]), float(cells[order[1]])))
        except ValueError:
            bad = next(c for c in cells if not _is_number(c))
            raise BoxError(f"{path}, line {line}: {bad!r} is not a number; give lower and upper per line") from None
    if not rows:
        raise BoxError(f"{path}: no rows; give one line with lower and upper per input entry")
    table = np.array(rows)
    return table[:, 0], table[:, 1]


# ---- weights ------------------------------------------------------------------------------------


def read_weights(network: Network, text: str | None, output: int | None) -> Array | dict[str, Array]:
    """Return the weights on the network's outputs that ``--weights`` or ``--output`` stands for.

    Returns
    -------
    array (m,) or dict of them by output name
        The dict for networks of several outputs.

    Raises
    ------
    InputError
        If the network has several output entries and neither option is given, or they do not fit.
    """
    size = network.output_size
    if text is not None and output is not None:
        raise InputError("--weights and --output exclude each other; give one of them")
    if text is not None:
        weights = _parse_weights(text)
        if len(weights) != size:
            raise InputError(f"--weights has {len(weights)} numbers, {network.name} has {size} outputs")
    elif output is not None:
        if not 0 <= output < size:
            raise InputError(
                f"--output {output}: {network.name} has {size} outputs; give a number from 0 to {size - 1}"
            )
        weights = np.eye(1, size, output)[0]
    elif size == 1:
        weights = np.ones(1)
    else:
        raise InputError(
            f"{network.name} has {size} outputs; choose one with --output K (0 to {size - 1}), "
            "or weight all of them with --weights"
        )
    return _by_output(network.outputs, weights)


def _by_output(outputs: tuple[TensorSpec, ...], weights: Array) -> Array | dict[str, Array]:
    if len(outputs) == 1:
        return weights.reshape(outputs[0].shape)
    ends = np.cumsum([spec.size for spec in outputs])[:-1]
    return {s.name: part.reshape(s.shape) for s, part in zip(outputs, np.split(weights, ends), strict=True)}


def _parse_weights(text: str) -> Array:
    path = Path(text)
    if path.suffix.lower() == ".json":
        _need_file(path, "--weights", InputError)
        value = _load_json(path, InputError)
        if not isinstance(value, list) or not all(_is_plain_number(v) for v in value):
            raise InputError(f"{path}: not a list of numbers; write [1, 0, -1]")
        weights = np.array(value, float)
    elif text.strip() and (path.suffix.lower() in (".csv", ".txt") or _exists(path)):
        _need_file(path, "--weights", InputError)
        weights = _numbers(_read_text(path, InputError), str(path))
    else:
        weights = _numbers(text, "--weights")
    if not np.isfinite(weights).all():
        raise InputError(f"--weights {text}: a weight is not finite; give finite numbers")
    return weights


def _numbers(text: str, source: str) -> Array:
    numbers = []
    for line, content in enumerate(text.splitlines(), start=1):
        for part in content.replace(";", ",").split(","):
            if not part.strip():
                continue
            if not _is_number(part):
                place = source if source.startswith("--") else f"{source}, line {line}"
                raise InputError(f'{place}: {part.strip()!r} is not a number; give numbers like "1,0,-1" or a file')
            numbers.append(float(part))
    return np.array(numbers)


# ---- points -------------------------------------------------------------------------------------


def read_start(network: Network, text: str) -> dict[str, Array]:
    """Return the point that ``--start`` stands for, as values of the input's shape by input name.

    Raises
    ------
    InputError
        If the text or the file cannot be read or does not fit; names the file, the line or input, and the cure.
    """
    path = Path(text)
    if path.suffix.lower() in _POINT_FILES or _exists(path):
        found = _points_from_file(network, path, "--start")
    else:
        found = {"": _numbers(text, "--start")[None]}
    return {s.name: _one(s, a, text) for s, a in _by_input(network, found, "--start", text)}


def read_samples(network: Network, text: str) -> dict[str, Array]:
    """Return the points that ``--samples`` stands for, an array (k, *shape) by input name.

    Raises
    ------
    InputError
        See `read_start`.
    """
    found = _points_from_file(network, Path(text), "--samples")
    points = {s.name: _many(s, a, text) for s, a in _by_input(network, found, "--samples", text)}
    counts = {name: len(a) for name, a in points.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise InputError(f"--samples {text}: {told}; give the same number of points for every input")
    return points


def _points_from_file(network: Network, path: Path, option: str) -> dict[str, np.ndarray]:
    """Return the arrays of a file by input name; of a single array the name is empty."""
    kind = path.suffix.lower()
    if kind not in _POINT_FILES:
        raise InputError(f"{option} {path}: unknown kind of file {path.suffix!r}; give {_POINT_FORMS}")
    _need_file(path, option, InputError)
    if kind == ".csv":
        return {"": _table(path)}
    cure = "save with np.save" if kind == ".npy" else f"save with np.savez, by input name: {_inputs(network)}"
    found = _load_json(path, InputError) if kind == ".json" else _load_numpy(path, InputError, cure)
    if not isinstance(found, dict):
        return {"": _json_points(path, found, "") if kind == ".json" else found}
    if kind == ".json":
        return {name: _json_points(path, value, name) for name, value in found.items()}
    alone = len(found) == 1 and len(network.inputs) == 1  # an array that was saved without a name is called arr_0
    return {"": next(iter(found.values()))} if alone and "arr_0" in found else found


def _json_points(path: Path, value: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:
        which = f"key {name!r}" if name else "the list"
        raise InputError(f"{path}: {which} is ragged; give rows of equal length") from None


def _table(path: Path) -> np.ndarray:
    """Return the numbers of a CSV file, one row per line."""
    rows: list[list[float]] = []
    for line, cells in enumerate(csv.reader(_read_text(path, InputError).splitlines()), start=1):
        if not any(cell.strip() for cell in cells):
            continue
        if bad := [c for c in cells if not _is_number(c)]:
            raise InputError(f"{path}, line {line}: {bad[0]!r} is not a number; give numbers only, without a heading")
        if rows and len(cells) != len(rows[0]):
            raise InputError(
                f"{path}, line {line}: {len(cells)} numbers, {len(rows[0])} before; give one point per line"
            )
        rows.append([float(c) for c in cells])
    if not rows:
        raise InputError(f"{path}: no rows; give one line of numbers per point")
    return np.array(rows)


def _by_input(
    network: Network, found: Mapping[str, np.ndarray], option: str, source: str
) -> list[tuple[TensorSpec, Array]]:
    """Return the arrays with the inputs they belong to, every one numbers."""
    names = [s.name for s in network.inputs]
    if "" in found and len(names) != 1:
        raise InputError(
            f"{option} {source}: {network.name} has {len(names)} inputs; give a .json or .npz file with values by "
            f"input name: {_inputs(network)}"
        )
    given = {names[0]: found[""]} if "" in found else found
    for name in given:
        if name not in names:
            raise InputError(f"{option} {source}: {UnknownName('input', name, names)}")
    if lacking := [name for name in names if name not in given]:
        raise InputError(f"{option} {source}: no value for input(s) {', '.join(lacking)}; give {_inputs(network)}")
    for name, array in given.items():
        if array.dtype.kind not in "iuf":
            raise InputError(f"{option} {source}: input {name!r} holds {array.dtype}; give numbers")
        if not np.isfinite(array).all():
            raise InputError(f"{option} {source}: a value of input {name!r} is not finite; give finite numbers")
    return [(spec, given[spec.name].astype(float)) for spec in network.inputs]


def _inputs(network: Network) -> str:
    return ", ".join(f"{s.name!r} {s.shape}" for s in network.inputs)


def _one(spec: TensorSpec, array: Array, source: str) -> Array:
    """Return one point of an input; a column of numbers, one per line, is one, too."""
    if array.shape not in (spec.shape, (1, *spec.shape), (spec.size,), (1, spec.size), (spec.size, 1)):
        raise InputError(
            f"--start {source}: shape {array.shape}; input {spec.name!r} takes {spec.shape}, {spec.size} number(s)"
        )
    return array.reshape(spec.shape)


def _many(spec: TensorSpec, array: Array, source: str) -> Array:
    """Return points of an input."""
    if not len(array.shape) or not len(array) or array.shape[1:] not in (spec.shape, (spec.size,)):
        raise InputError(
            f"--samples {source}: shape {array.shape}; input {spec.name!r} takes (points, "
            f"{', '.join(map(str, spec.shape))}) or (points, {spec.size})"
        )
    return array.reshape(-1, *spec.shape)


# ---- files --------------------------------------------------------------------------------------


def _need_file(path: Path, option: str, error: type[InputError]) -> None:
    if not _exists(path):
        raise error(f"{option} {path}: no such file")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long or with a null character is no file
        return False


def _read_text(path: Path, error: type[InputError]) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise error(f"{path}: not a text file; save it as UTF-8 text") from None
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror or reason}") from None


def _load_numpy(path: Path, error: type[InputError], cure: str) -> np.ndarray | dict[str, np.ndarray]:
    """Return the array of an .npy file, or the arrays of an .npz archive by name; pickles are never opened."""
    kind, save = ("file", "np.save") if path.suffix.lower() == ".npy" else ("archive", "np.savez")
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            return file
        with file:
            return {key: file[key] for key in file.files}
    except (OSError, EOFError, zipfile.BadZipFile) as wrong:
        raise error(f"{path}: not an {path.suffix} {kind} ({wrong}); {cure}") from None
    except ValueError as wrong:
        reason = "it holds Python objects" if "pickle" in str(wrong) else str(wrong)
        raise error(f"{path}: refused, {reason}; save plain arrays of numbers with {save}") from None


def _load_json(path: Path, error: type[InputError]) -> Any:
    try:
        return json.loads(_read_text(path, error))
    except json.JSONDecodeError as wrong:
        raise error(f"{path}, line {wrong.lineno}, column {wrong.colno}: {wrong.msg}; correct the JSON") from None
    except RecursionError:
        raise error(f"{path}: nested too deeply to be a box, weights or points") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
