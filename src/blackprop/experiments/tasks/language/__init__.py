"""Language: tokens, a decoder-only transformer, and the tasks made of them."""
