"""A stack entry becomes a layer: its tree is built in a directory of the store."""
