"""Wheels: their archives, metadata, records and entry points."""
