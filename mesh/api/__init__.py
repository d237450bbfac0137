"""The OpenAI-compatible HTTP gateway, and the chat page in front of it."""
