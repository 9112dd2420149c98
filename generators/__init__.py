"""Beyond the coursework: models that generate flowers, and the classifier whose features score them."""
