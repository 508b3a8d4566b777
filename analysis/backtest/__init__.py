"""Recorded deployments judged again: by any policy, and by their value series, with the errors counted."""
