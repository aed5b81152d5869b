"""The protocol, its keys and its sockets."""
