"""Language: tokens, a decoder-only transformer, and the tasks with them."""
