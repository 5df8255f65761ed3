"""The base: Debian packages, where they come from, and how a tree is made of them."""
