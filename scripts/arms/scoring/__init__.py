"""What a policy thinks of pairs, and what it answers: log-probabilities, their tables, generation."""
