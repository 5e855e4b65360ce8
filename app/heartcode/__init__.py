"""HeartCode's proxy: one OpenAI-compatible endpoint for the llama-servers of a rig.

The way of a request through these folders: `server` (gunicorn) → `api` (what clients see) →
`relay` (a backend's answer, or another's) → `routing` (when, and which backend) → `upstream` (the
exchange with it), and back through `relay` to the client. docs/architecture.md has the picture.
"""

__version__ = "0.1.0"
