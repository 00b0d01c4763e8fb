"""Which point of the grid learns which object."""
