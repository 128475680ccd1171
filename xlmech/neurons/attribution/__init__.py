"""What each neuron adds to an answer."""
