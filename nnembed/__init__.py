"""nnembed: trained neural networks as constraints in optimisation models.

>>> import nnembed as nn
>>> net = nn.load("demand.onnx")  # doctest: +SKIP
>>> result = nn.maximize(net, (0.0, 1.0))  # doctest: +SKIP

Names are loaded on first use, so importing this package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnembed.lazy import loader

__version__ = "0.1.0"

_WHERE = {
    "ArrayModel": "nnembed.hosts.arrays",
    "Bounds": "nnembed.bounds.box",
    "Budget": "nnembed.options",
    "Certificate": "nnembed.certificate",
    "Embedding": "nnembed.embedding",
    "Model": "nnembed.model",
    "Network": "nnembed.ir.network",
    "Result": "nnembed.result",
    "TensorSpec": "nnembed.ir.network",
    "Twin": "nnembed.surrogates.twin",
    "embed": "nnembed.engine",
    "hookimpl": "nnembed.hooks",
    "load": "nnembed.engine",
    "maximize": "nnembed.engine",
    "minimize": "nnembed.engine",
    "product": "nnembed.engine",
    "save": "nnembed.engine",
    "solve": "nnembed.engine",
    "surrogate": "nnembed.engine.surrogate",
    "tighten": "nnembed.engine",
    "NnembedError": "nnembed.errors",
    "ModelFileError": "nnembed.errors",
    "UnsupportedOperators": "nnembed.errors",
    "ExternalDataError": "nnembed.errors",
    "SelfCheckFailed": "nnembed.errors",
    "InputError": "nnembed.errors",
    "BoxError": "nnembed.errors",
    "WrongModel": "nnembed.errors",
    "UnknownKeyword": "nnembed.errors",
    "UnknownName": "nnembed.errors",
    "UnsupportedFeature": "nnembed.errors",
    "Unavailable": "nnembed.errors",
    "PluginError": "nnembed.errors",
    "SolverError": "nnembed.errors",
    "WorkerLost": "nnembed.errors",
    "CertificateFailed": "nnembed.errors",
}

_NAMESPACES = {"bounds": "nnembed.bounds", "formulations": "nnembed.formulations"}  # classes, for those with options

__all__ = [
    "__version__",
    "ArrayModel",
    "Bounds",
    "BoxError",
    "Budget",
    "Certificate",
    "CertificateFailed",
    "Embedding",
    "ExternalDataError",
    "InputError",
    "Model",
    "ModelFileError",
    "Network",
    "NnembedError",
    "PluginError",
    "Result",
    "SelfCheckFailed",
    "SolverError",
    "TensorSpec",
    "Twin",
    "Unavailable",
    "UnknownKeyword",
    "UnknownName",
    "UnsupportedFeature",
    "UnsupportedOperators",
    "WorkerLost",
    "WrongModel",
    "embed",
    "hookimpl",
    "load",
    "maximize",
    "minimize",
    "product",
    "save",
    "solve",
    "surrogate",
    "tighten",
]

if TYPE_CHECKING:
    import nnembed.formulations  # noqa: F401 - known to type checkers as an attribute
    from nnembed.bounds.box import Bounds
    from nnembed.certificate import Certificate
    from nnembed.embedding import Embedding
    from nnembed.engine.embed import embed, tighten
    from nnembed.engine.extreme import maximize, minimize
    from nnembed.engine.loading import load
    from nnembed.engine.multiply import product
    from nnembed.engine.saving import save
    from nnembed.engine.solve import solve
    from nnembed.engine.surrogate import surrogate
    from nnembed.errors import (
        BoxError,
        CertificateFailed,
        ExternalDataError,
        InputError,
        ModelFileError,
        NnembedError,
        PluginError,
        SelfCheckFailed,
        SolverError,
        Unavailable,
        UnknownKeyword,
        UnknownName,
        UnsupportedFeature,
        UnsupportedOperators,
        WorkerLost,
        WrongModel,
    )
    from nnembed.hooks import hookimpl
    from nnembed.hosts.arrays import ArrayModel
    from nnembed.ir.network import Network, TensorSpec
    from nnembed.model import Model
    from nnembed.options import Budget
    from nnembed.result import Result
    from nnembed.surrogates.twin import Twin


__getattr__ = loader(__name__, _WHERE | _NAMESPACES)


def __dir__() -> list[str]:
    return sorted(__all__)
