"""Deployments on one machine: servers as processes behind Envoy."""
