"""`python -m playground` writes playground.html, a page that explains the trained models and needs no server."""
