"""Deployments that are over, as data: what was known of each release, what was seen, what came of it."""
