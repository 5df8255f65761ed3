"""Images of commits of vLLM itself: its wheels, from an index or compiled, and what the commit changed in them."""
