"""Small colour images: the reader, the task, its networks, and their preprocessing."""
