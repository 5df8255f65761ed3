"""Retraining: from collected conversations to a new version of a model, step by step."""
