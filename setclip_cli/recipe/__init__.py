"""The recipe: one TOML file an experiment, read into typed sections with every default written once."""
