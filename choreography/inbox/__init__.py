"""What happens to one delivery: its unit of work, the retry policy, parking."""
