"""What is told about the requests: metrics, how processes share them, log lines."""
