"""What do engines say of their KV caches? Their own events: blocks stored, evicted, all of them cleared."""
