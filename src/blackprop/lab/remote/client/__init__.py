"""The client of a served device."""
