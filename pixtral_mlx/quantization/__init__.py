"""Which weights get how many bits, and the folder that results."""
