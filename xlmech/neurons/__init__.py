"""Neuron sets and their ablation; see the packages below for attribution, selection and evidence."""
