"""What is usual for the people of a segment."""
