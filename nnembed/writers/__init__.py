"""Networks back into files."""
