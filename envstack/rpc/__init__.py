"""Messages and transport: who may say what to whom, and in which shape."""
