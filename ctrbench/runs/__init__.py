"""Keys, records, the grid of runs and where they go."""
