"""The trained models: what each can do, how it is rebuilt from its checkpoint alone, and what it samples."""
