"""Signed statements about an image: made, attached, read back and verified. Modules are imported by name."""
