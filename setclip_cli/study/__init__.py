"""Grids of recipes and seeds: their cells, their runs, their table and plots."""
