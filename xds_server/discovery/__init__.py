"""Where the endpoints of a version come from that the mesh file does not list: watched files, and registration."""
