"""The pipeline: its steps, what a run records, and what a server gets on its machine."""
