"""A product of a decision with a prediction, in the host's own form."""

from __future__ import annotations

from typing import Any

from nnembed.errors import InputError
from nnembed.keywords import explicit


@explicit
def product(x: Any, y: Any, *, name: str | None = None) -> Any:
    """Multiply two variables or expressions of a model.

    Where a factor takes few whole values (binary, or integer with up to 16 values; expressions of such variables with
    whole coefficients too), the product is a linear expression: columns and rows are added that make it exact, so it
    may stand in the objective and in constraints. Otherwise it is the host's quadratic expression, for the objective
    only; `nnembed.solve` bounds it where the solver takes no products.

    Parameters
    ----------
    x, y : variable, linear expression, array or number
        Of linopy or Pyomo (always quadratic there). Dimensions are matched by name.
    name : str or None
        linopy: name of the added columns and prefix of the rows; None takes "product" or the next free one.

    Returns
    -------
    linear or quadratic expression of the host

    Raises
    ------
    BoxError
        If the other factor of a linearised product has no finite bounds.
    InputError
        If the factors do not fit together, or the name is taken.
    WrongModel
        If they are of two models.
    """
    modules = {t.__module__.split(".")[0] for v in (x, y) for t in type(v).__mro__}
    if "linopy" in modules:
        from nnembed.hosts.linopy_product import product as multiplied

        return multiplied(x, y, name)
    if "pyomo" in modules:
        return x * y
    raise InputError(
        f"nnembed.product takes variables or expressions of a model, got {type(x).__name__} and {type(y).__name__}"
    )
