"""Dashboards as code. `python -m deploy.grafana` writes them into `dashboards/`, from where Grafana takes them."""
