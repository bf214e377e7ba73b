"""Looking inside a run, and changing what is inside."""
