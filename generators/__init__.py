"""Beyond the coursework: models that generate flowers, and the classifier that reads their species."""


def check_class_prior(class_prior: list[float]) -> list[float]:
    """The same list. Raises ValueError where it is not the probabilities of one or more classes."""
    if not class_prior or min(class_prior) < 0 or abs(sum(class_prior) - 1) > 1e-3:
        raise ValueError(f"expected the probabilities of the classes, found {class_prior}")
    return class_prior
