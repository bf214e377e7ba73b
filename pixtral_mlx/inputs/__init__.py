"""From what people send to a `Prompt`."""
