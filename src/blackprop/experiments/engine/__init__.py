"""A trial: its parts, its training within the steps of its task or an allowance, its price and its result."""
