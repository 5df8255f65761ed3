"""Access to the machine: external programs, git, lock files, temporary directories."""
