"""The API answers as the OpenAI wire format and vLLM's documentation say."""
