"""What tests are written with; nothing here is a test, and nothing here is envstack."""
