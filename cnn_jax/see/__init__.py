"""What a convolution, and a trained network, makes of one image: numbers, which `figures` draws."""
