"""Find the family of a device that declares little, by few settings."""
