"""Releases: policy, ledger, and the verbs that move a channel. Modules are imported by name."""
