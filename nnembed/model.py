"""nnembed.Model: a linopy model that knows networks."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import linopy

from nnembed import embedding, engine
from nnembed.keywords import explicit

if TYPE_CHECKING:
    from nnembed.embedding import Embedding
    from nnembed.ir.network import Network
    from nnembed.result import Result


class Model(linopy.Model):  # type: ignore[misc]
    """A `linopy.Model` with `embed`; everything of linopy works on it.

    Networks are kept beside linopy's own rows and meet the solver in `solve`. Other ways to solve or write the model
    (``to_file``, ``to_highspy``, a copy, a saved file) find it infeasible, and the name of the row says why; attach
    the network with ``nnembed.embed(model, net, x)`` where such a way is wanted.
    """

    __slots__ = ()

    @property
    def embeddings(self) -> Mapping[str, Embedding]:
        """The networks in this model, by name."""
        return embedding.embeddings_of(self)

    @explicit
    def embed(
        self, net: Network, x: Any, *, name: str | None = None, formulation: Any = "auto", bounds: Any = "auto"
    ) -> Any:
        """Add the outputs of a network as variables.

        Parameters
        ----------
        net : Network
        x : variable, linear expression, array, number, a list of them, or a dict of these by input name
            Last axis are features, axes before are batch.
        name : str or None
            Name of the output variable; None takes the network's name.
        formulation : str, Formulation or mapping layer name -> either
        bounds : str, tuple of str or Bounds

        Returns
        -------
        linopy.Variable over the batch dimensions and ``output``; a dict of them by name for several outputs

        Raises
        ------
        InputError
            If `x` does not fit the network or the model, or an input has no finite bounds.
        """
        made = engine.embed(self, net, x, name=name, formulation=formulation, bounds=bounds, attach=False)
        return made.outputs

    @explicit
    def solve(
        self,
        backend: Any = "auto",
        *,
        formulation: Any = None,
        bounds: Any = None,
        heuristics: Any = "auto",
        start: Any = None,
        time_limit: float | None = None,
        gap: float = 1e-4,
        threads: int = 1,
        seed: int = 0,
        executor: Executor | None = None,
        progress: bool | None = None,
        tolerance: float = 1e-5,
        solver_options: Mapping[str, Any] | None = None,
        isolated: bool = False,
        surrogate: Any = None,
        target: float | None = None,
    ) -> Result:
        """Solve with all networks and check the answer against them.

        Parameters
        ----------
        backend : str or Backend
            A registered solver, for example "highs".
        formulation, bounds
            None keeps what each network was embedded with.
        heuristics, start, gap, tolerance
            See `nnembed.solve`.
        time_limit : float or None
            Wall-clock seconds for the whole call.
        threads, seed : int
        executor : concurrent.futures.Executor or None
        progress : bool or None
        solver_options : mapping or None
            Passed to the solver under its own names.
        isolated : bool
            Run the solver in a process of its own; see `nnembed.solve`.
        surrogate : str, Surrogate or None
            Search on sparser twins of the networks, for example ``"magnitude:0.5"``; see `nnembed.solve`.
        target : float or None
            Stop at the first point whose objective is at least this good.

        Returns
        -------
        Result
            With values, bound, gap and certificate; the values are also in the model, as after linopy's own solve.
        """
        return engine.solve(
            self,
            backend=backend,
            formulation=formulation,
            bounds=bounds,
            heuristics=heuristics,
            start=start,
            time_limit=time_limit,
            gap=gap,
            threads=threads,
            seed=seed,
            executor=executor,
            progress=progress,
            tolerance=tolerance,
            solver_options=solver_options,
            isolated=isolated,
            surrogate=surrogate,
            target=target,
        )
