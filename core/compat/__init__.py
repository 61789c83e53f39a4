"""Names of the last release: recipe keys, tensors, Python names and hooks. Delete this folder with the next release."""
