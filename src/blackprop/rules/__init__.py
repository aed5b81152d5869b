"""Rules that train a whole model otherwise than by backpropagation: each fills `.grad`, any optimizer makes the step."""
