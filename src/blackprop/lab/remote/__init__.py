"""Devices on another machine: the client, the server and what they share."""
