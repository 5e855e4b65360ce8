"""The Grafana dashboards: what is on them (`pages`), and how Grafana writes that down (`model`)."""
