"""The only orchestrator: plan -> tighten -> emit -> attach or overlay -> solve -> recover -> certify."""

from __future__ import annotations

from nnembed.engine.embed import embed, residual_of, tighten
from nnembed.engine.extreme import maximize, minimize
from nnembed.engine.loading import load
from nnembed.engine.multiply import product
from nnembed.engine.saving import save
from nnembed.engine.solve import solve

__all__ = ["embed", "load", "maximize", "minimize", "product", "residual_of", "save", "solve", "tighten"]
