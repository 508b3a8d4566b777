"""What a plan can find, before it runs: detectable effects, times to health, and budgets that are too small."""
