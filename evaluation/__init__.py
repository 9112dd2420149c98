"""What is done with trained models: rebuilding, sampling, scoring, grading."""
