"""Serinus's pure core: it decides. No I/O, no clock, no global randomness."""
