"""The ground floor: what the training and the serving wing agree on."""
