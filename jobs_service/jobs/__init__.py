"""What a job is: its states, its types, its payload, how it fails."""
