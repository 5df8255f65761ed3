"""Streaming: streams are well formed, progressive, and say the same as an answer in one piece."""
