"""From a `Prompt` to an answer, reusing what earlier calls left."""
