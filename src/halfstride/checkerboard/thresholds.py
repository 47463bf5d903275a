"""From where on a checkerboard counts as found."""

EVIDENCE = 3.5
"""Evidence that a pattern needs, `-log10` of the probability that it is chance: a false alarm in 3,000 measurements."""

STRENGTH = 0.005
"""Strength that a pattern needs as well, in units of the signal's standard deviation: 0.5 %, less than can be seen."""

EQUAL_GAINS = 1e-3
"""Phase gains with a smaller `gain_spread` count as equal."""
