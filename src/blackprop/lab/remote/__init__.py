"""Devices on another machine: the client, the server and their shared parts."""
