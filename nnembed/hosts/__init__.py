"""Hosts: modelling layers a network can be put into, each imported on first use."""
