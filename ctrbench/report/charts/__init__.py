"""Built-in charts of reports; each file has one subclass of `ctrbench.report.chart.Chart`."""
