"""Studies: many recipes and seeds, trained and scored; their table and plots."""
