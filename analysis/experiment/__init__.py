"""A/B experiments: their design, what is counted, effects valid at every look, and splits that follow them."""
