"""Figures: the values first, then their drawing, so that tests check values and not pixels."""
