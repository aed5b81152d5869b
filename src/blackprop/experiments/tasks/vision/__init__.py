"""Small colour images: the reader and the task, networks, a file each, and what stands before them."""
