"""Who may call what, what hostile input does, and what leaks."""
