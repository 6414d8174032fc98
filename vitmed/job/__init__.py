"""A training as its config describes it: the keys, what is learned from, and the functions that are compiled."""
