"""Security: access control, hostile input, and leaks."""
