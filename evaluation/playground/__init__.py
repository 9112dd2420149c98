"""What playground.py shows: answers of the trained models, as pictures for a page. None of it needs Gradio."""
