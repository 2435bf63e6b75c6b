"""Rewrites of a block for solvers and hosts that lack a feature, and the cheapest chain of them."""
