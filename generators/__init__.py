"""Beyond the coursework: models that generate flowers, and the classifier that reads their species."""
