"""What a run costs, by arithmetic, and what this machine can do."""
