"""A function over shards."""
