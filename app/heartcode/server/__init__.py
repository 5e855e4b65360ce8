"""gunicorn's process model: the master, its worker, and how a reload becomes the next version."""
