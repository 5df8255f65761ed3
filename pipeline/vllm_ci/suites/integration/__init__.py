"""The API conforms to the OpenAI wire format and vLLM's documentation."""
