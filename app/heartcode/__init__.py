"""HeartCode's proxy: one OpenAI-compatible endpoint for the llama-servers of a rig.

The way of a request through this package: `wsgi` → `application` → `endpoints.inference` → `relay`
→ `pool` (`admission`: when, `policy`: which backend) → `upstream` (the exchange with it) → `sse`
(the stream back).
"""

__version__ = "0.1.0"
