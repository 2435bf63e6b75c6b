"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from nnembed.errors import InputError


def write_atomic(path: Path | str, data: bytes) -> Path:
    """Write `data` to `path`; a failure leaves the old file as it was and nothing beside it.

    Parameters
    ----------
    path : path
        A file; pipes and devices are written to directly.
    data : bytes
        The whole content.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If the file cannot be written: no such folder, no permission, disk full.
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # replacing a device by a file would destroy it
        else:
            _replace(target.resolve(), data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot write {target}: {reason}; give a path in a folder that exists and has room"
        ) from error
    return target


def _replace(target: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        temporary.replace(target)
    except BaseException:  # an interrupt must not leave the half-written file either
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
