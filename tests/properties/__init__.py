"""Properties that hold for any input, checked on inputs drawn by hypothesis."""
