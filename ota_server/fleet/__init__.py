"""Who asks, and who gets what."""
