"""What is asked of a configuration before any Envoy is sent it: Envoy's own rules, and Envoy itself.

`rules` reads the constraints that Envoy's messages carry; `dry_run` hands a whole configuration to a real Envoy.
"""
