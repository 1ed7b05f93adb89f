"""Films: from bytes to pixels, from pixels to the network's input and back."""
