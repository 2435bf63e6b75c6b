"""Bounds of every tensor over a box."""
