"""Boxes and weights as people give them on a command line: numbers, or a file."""

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
    arrays = _load_npz(path)
    sides = []
    for key in ("lower", "upper"):
        if key not in arrays:
            held = ", ".join(map(repr, arrays)) or "nothing"
            raise BoxError(f"{path}: array {key!r} is missing (it holds {held}); save with np.savez(lower=, upper=)")
        if arrays[key].dtype.kind not in "iuf":
            raise BoxError(f"{path}: array {key!r} holds {arrays[key].dtype}; save an array of numbers")
        sides.append(arrays[key].astype(float))
    return sides[0], sides[1]


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise BoxError(f"{path}: a single array, not an .npz archive; save with np.savez(lower=, upper=)")
            return {key: file[key] for key in file.files}
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise BoxError(f"{path}: not an .npz archive ({error}); save with np.savez(lower=, upper=)") from None
    except ValueError as error:
        reason = "it holds Python objects" if "pickle" in str(error) else str(error)
        raise BoxError(f"{path}: refused, {reason}; save plain arrays of numbers with np.savez") from None


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
                place = f"{source}, line {line}" if source != "--weights" else source
                raise InputError(f'{place}: {part.strip()!r} is not a number; give numbers like "1,0,-1" or a file')
            numbers.append(float(part))
    return np.array(numbers)


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


def _load_json(path: Path, error: type[InputError]) -> Any:
    try:
        return json.loads(_read_text(path, error))
    except json.JSONDecodeError as wrong:
        raise error(f"{path}, line {wrong.lineno}, column {wrong.colno}: {wrong.msg}; correct the JSON") from None
    except RecursionError:
        raise error(f"{path}: nested too deeply to be a box or weights") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
