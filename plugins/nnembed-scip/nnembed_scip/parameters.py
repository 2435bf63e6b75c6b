"""SCIP's parameters: what the options mean in them, and the defaults for networks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from nnembed.errors import InputError, UnknownName
from nnembed.options import Options
from nnembed.problem import Problem

#: Cuts cost more than they bring on networks with binaries: with SCIP's defaults big-M rows take 3 to 11 times as long,
#: indicator rows 7 to 25 times; one round at the root is no better than none, five are worse. Sets (SOS1) and products
#: of variables, on the other hand, are bounded by cuts and need them.
NO_CUTS = {"separating/maxrounds": 0, "separating/maxroundsroot": 0}


#: Heuristics that solve smaller MIPs. With a good start they only cost, 15 to 45 % of the whole, at the same nodes.
SUB_MIPS = ("alns", "crossover", "gins", "rens", "rins")


def set_parameters(model: Any, problem: Problem, options: Options) -> None:
    """Set what the options ask for, the defaults for the problem's kind, then the user's own choices.

    Raises
    ------
    UnknownName, InputError
        If one of ``options.solver_options`` does not exist or has a value that SCIP refuses.
    """
    model.hideOutput()
    chosen = {
        "timing/clocktype": 2,  # wall clock
        "misc/catchctrlc": False,  # Ctrl-C is the caller's
        "limits/gap": float(options.gap),
        "lp/threads": min(options.threads, 64),  # SCIP takes no more
        "randomization/randomseedshift": int(options.seed) % (2**31),
    }
    chosen |= NO_CUTS if is_network(problem) else {}
    for name, value in chosen.items():
        model.setParam(name, value)
    set_user_parameters(model, options.solver_options)


def is_network(problem: Problem) -> bool:
    """Return whether networks have at least half of all binaries, and nothing else is there that needs cuts."""
    own = sum(p.block.binaries for p in problem.placements)
    return own > 0 and not problem.sos1 and problem.quadratic is None and 2 * own >= int(problem.integer.sum())


def skip_sub_mips(model: Any, chosen: Mapping[str, Any]) -> None:
    """Switch the heuristics off that a good start makes superfluous, but for those the user has `chosen`."""
    for name in (f"heuristics/{h}/freq" for h in SUB_MIPS):
        if name not in chosen:
            model.setParam(name, -1)


def set_user_parameters(model: Any, chosen: Mapping[str, Any]) -> None:
    """Set parameters by SCIP's names."""
    for name, value in chosen.items():
        try:
            old = model.getParam(name)
        except KeyError:
            names = list(model.getParams())
            close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
            raise UnknownName("SCIP parameter", name, close or _groups(names)) from None
        if isinstance(old, int) and not isinstance(value, str) and value != int(value):
            raise InputError(f"SCIP parameter {name}={value!r}; it takes whole numbers")
        try:
            model.setParam(name, value)
        except (ValueError, TypeError) as error:
            raise InputError(f"SCIP refuses {name}={value!r}: {error}; its value now is {old!r}") from None


def _groups(names: list[str]) -> list[str]:
    """Return the first parts of all names: 3000 of them would be no help."""
    return sorted({name.split("/")[0] + "/..." for name in names})
