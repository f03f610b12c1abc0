"""Coverage-guided fuzzing, where tests by examples and properties end."""
