"""The proxy's endpoints; each module here has a blueprint `bp`."""
