"""Whether a backend is alive: who looks after it, what it is asked, how it is restarted."""
