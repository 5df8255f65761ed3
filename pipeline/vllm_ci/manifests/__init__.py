"""Kubernetes manifests of a channel (for 1.30 and later): pure, the same input gives the same bytes."""
