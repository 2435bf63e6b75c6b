"""Smaller twins of networks, and how far they may be from the original."""
