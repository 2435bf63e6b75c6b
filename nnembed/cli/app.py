"""The command group, and how every failure ends as one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from nnembed.cli.common import ExitCode, abandon_output, complain, flush, one_line, print_json, write_line
from nnembed.errors import (
    CertificateFailed,
    NnembedError,
    PluginError,
    SelfCheckFailed,
    SolverError,
    UnknownName,
    UnsupportedOperators,
)

if TYPE_CHECKING:
    from nnembed.protocols import Command

# Typer has carried its own copy of click since 0.26; the base class of its usage errors is found from a public one.
_UsageError: Any = typer.BadParameter.__mro__[1]
_ClickError: Any = typer.BadParameter.__mro__[2]

BUILT_IN = ("demo", "inspect", "check", "bounds", "optimize", "surrogate", "plugins")


class Commands(TyperGroup):
    """The built-in commands and, looked up only when needed, those of plugins."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return [*super().list_commands(ctx), *_plugin_commands()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, None if there is none of that name."""
        return super().get_command(ctx, cmd_name) or _plugin_commands().get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name; a wrong name is told with the closest right one."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise UnknownName("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


def _version(wanted: bool) -> None:
    if wanted:
        import nnembed

        write_line(f"nnembed {nnembed.__version__}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Trained neural networks (ONNX) as constraints in optimisation models."""
    if ctx.invoked_subcommand is None:
        write_line(ctx.get_help())


@cache
def build() -> Any:
    """Return the command group with the built-in commands."""
    app = typer.Typer(
        name="nnembed",
        cls=Commands,
        callback=_root,
        invoke_without_command=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in BUILT_IN:
        command: Callable[..., int] = getattr(importlib.import_module(f"nnembed.cli.{name}"), name)
        app.command(name)(command)
    return typer.main.get_command(app)


@cache
def _plugin_commands() -> dict[str, Any]:
    """Return the commands of plugins by name; a name that is taken is told and left out."""
    from nnembed.hooks.manager import registry

    commands: dict[str, Any] = {}
    for command in registry().commands():
        if command.name in BUILT_IN or command.name in commands:
            complain(f"warning: a plugin's command {command.name!r} is ignored, the name is taken")
            continue
        commands[command.name] = _as_click(command)
    return commands


def _as_click(command: Command) -> Any:
    if isinstance(command.app, typer.Typer):
        return typer.main.get_command(command.app)
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(command.name)(command.app)
    return typer.main.get_command(single)


# ---- running ------------------------------------------------------------------------------------


def run(arguments: Sequence[str]) -> int:
    """Run a command line; every failure is one line on standard error.

    Parameters
    ----------
    arguments : sequence of str
        What follows ``nnembed``.

    Returns
    -------
    int
        The exit code, see `ExitCode`.
    """
    started = time.perf_counter()
    _never_fail_on_characters()
    with _plain_warnings():
        try:
            code = _invoke_safely(arguments, started)
            flush()
        except BrokenPipeError:
            abandon_output()
            code = int(ExitCode.DONE)
        except OSError as error:  # standard output itself: its disk is full
            abandon_output()
            complain(f"cannot write standard output: {error.strerror or error}")
            code = int(ExitCode.WRONG_USE)
    return code


def _invoke_safely(arguments: Sequence[str], started: float) -> int:
    try:
        return _invoke(arguments)
    except BrokenPipeError:
        raise
    except (NnembedError, OSError, MemoryError, KeyboardInterrupt, typer.Abort, _ClickError) as error:
        return _report(error, arguments, time.perf_counter() - started)
    except Exception as error:
        seconds = time.perf_counter() - started
        if _came_from_interrupt(error):  # compiled modules turn an interrupt while they load into an ImportError
            return _report(KeyboardInterrupt(), arguments, seconds)
        if os.environ.get("NNEMBED_TRACEBACK"):
            raise
        return _report(_internal(error), arguments, seconds)


def _internal(error: Exception) -> SolverError:
    """Return a fault of ours, or of a plugin, as an error that says how to see more."""
    return SolverError(
        f"internal error, {type(error).__name__}: {error}; please report it with the output of the same command under "
        "NNEMBED_TRACEBACK=1"
    )


def _came_from_interrupt(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _invoke(arguments: Sequence[str]) -> int:
    command = build()
    try:
        with command.make_context("nnembed", list(arguments)) as context:
            code = command.invoke(context)
    except typer.Exit as leave:
        code = leave.exit_code
    return int(code) if isinstance(code, int) else int(ExitCode.DONE)


def _report(error: BaseException, arguments: Sequence[str], seconds: float) -> int:
    """Tell an error on standard error, and as the one object of ``--json``."""
    code, message = exit_code(error), describe(error)
    complain(message)
    if "--json" in arguments:
        status = "interrupted" if code is ExitCode.INTERRUPTED else "error"
        facts: dict[str, Any] = {"status": status, "seconds": seconds, "exit_code": int(code)}
        facts["error"] = {"kind": type(error).__name__, "message": message}
        if isinstance(error, UnsupportedOperators):
            facts["error"]["problems"] = error.problems
        print_json(facts)
    return int(code)


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code that an error stands for."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return ExitCode.INTERRUPTED
    if isinstance(error, CertificateFailed | SelfCheckFailed | SolverError | MemoryError):
        return ExitCode.CHECK_FAILED
    return ExitCode.WRONG_USE


def describe(error: BaseException) -> str:
    """Return an error as one line that says the cause and the cure."""
    match error:
        case KeyboardInterrupt() | typer.Abort():
            return "interrupted"
        case MemoryError():
            return "not enough memory for this network and box; use a smaller network or box"
        case UnsupportedOperators():
            head, more = str(error).splitlines()[0], len(error.problems) - 1
            rest = f" (and {more} more, see `nnembed check`)" if more else ""
            return one_line(f"{head}: {error.problems[0]}{rest}") if error.problems else head
        case PluginError():
            return one_line(f"a plugin is at fault: {error}")
        case OSError():
            where = f"{error.filename}: " if error.filename is not None else ""
            return one_line(f"{where}{error.strerror or error}")
        case _UsageError():
            return _usage(error)
    return one_line(str(error)) or type(error).__name__


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "nnembed"
    name = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and context is not None:
        known = [o for p in context.command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")]
        text = str(UnknownName("option", str(name), [*known, "--help"]))
    else:
        text = one_line(error.format_message()).rstrip(".")
        text = text[:1].lower() + text[1:]
    return f"{text}; see `{command} --help`"


# ---- streams ------------------------------------------------------------------------------------


def _never_fail_on_characters() -> None:
    """Let a terminal that knows few characters show the others escaped."""
    for stream in (sys.stdout, sys.stderr):
        if (change := getattr(stream, "reconfigure", None)) is not None:
            change(errors="backslashreplace")


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings as one line without the place in our code."""

    def tell(message: Warning | str, *where: object, **more: object) -> None:
        complain(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = tell
        yield
