"""What statements say, one kind each."""
