"""The pipeline: its steps, the record of a run, and settings that fit a server to its machine."""
