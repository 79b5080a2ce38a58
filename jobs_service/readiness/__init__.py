"""Whether the servers will do, and what an operator is told when they will not."""
