"""A trial: its parts, its price, its training (for the steps of its task or within an allowance) and its result."""
