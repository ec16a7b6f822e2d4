"""What a person types and sees. Thin: torch is imported only inside a command."""
