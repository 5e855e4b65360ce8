"""An answer on its way: from a backend to the client, and on to another backend if that fails."""
