"""`python -m grading`: checks a hand-in, packs it, grades a class, prints the tables of README and report."""
