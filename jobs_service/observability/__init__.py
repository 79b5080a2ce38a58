"""What a process says of itself: its log lines, its spans."""
