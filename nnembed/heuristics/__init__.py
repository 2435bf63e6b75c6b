"""Finders of good points."""
