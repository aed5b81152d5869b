"""Networks for small colour images, a file each, and what stands before them."""
