"""What the machine gives: other programs, git, lock files, scratch directories."""
