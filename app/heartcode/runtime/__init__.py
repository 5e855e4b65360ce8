"""The rig as the proxy runs it: backends, relay and monitors put together; draining."""
