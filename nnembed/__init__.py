"""nnembed: trained neural networks as constraints in optimisation models."""
