"""Configuration of Envoy as plain data, and a client of its admin interface. Reference: Envoy's API version 3."""
