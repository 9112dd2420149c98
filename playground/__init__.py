"""`python -m playground`: a page in the browser that shows what the trained models do."""
