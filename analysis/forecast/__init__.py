"""Where a KPI is heading."""
