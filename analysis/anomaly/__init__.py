"""How unusual a session is for its segment."""
