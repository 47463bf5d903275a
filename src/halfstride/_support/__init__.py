"""What all parts stand on: the reading of arguments, and the cache of what is made of a weight."""
