"""What changes in an environment, as a stream of events: found by comparing, told by a journal."""
