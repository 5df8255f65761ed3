"""The OCI distribution protocol: a client, a repository in a folder, a read-only server. Modules are imported by name."""
