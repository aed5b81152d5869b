"""The command `blackprop`: its subcommands, the names that they accept, and errors in one line."""
