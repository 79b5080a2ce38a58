"""What a job is: its states, its type, its payload and its failures."""
