"""Streaming: streams are well formed, progressive, and equal to responses without streaming."""
