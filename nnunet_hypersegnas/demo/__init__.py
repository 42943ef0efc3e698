"""The embedded demo: synthetic data, and the whole loop by real commands."""
