"""What decides about a request: the roles file and the route packs, read and validated."""
