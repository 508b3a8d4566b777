"""Simulated people and rollouts: the same engine as live, on traffic whose truth is known."""
