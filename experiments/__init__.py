"""The application: commands that train, sample, evaluate and compare."""
