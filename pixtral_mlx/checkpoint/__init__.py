"""Model folders in every layout, checked before they are read, opened lazily."""
