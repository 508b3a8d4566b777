"""Learned segments: who is in which, and how Envoys come to know."""
