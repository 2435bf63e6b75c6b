"""Ways to write an activation as columns and rows."""
