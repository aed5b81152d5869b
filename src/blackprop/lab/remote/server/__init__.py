"""The server of a device."""
