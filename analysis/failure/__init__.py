"""The risk of a release: what is known of it before it has traffic, what its first minutes add, and what it moves."""
