"""Evidence that stays valid however often one looks: e-values, and what they exclude."""
