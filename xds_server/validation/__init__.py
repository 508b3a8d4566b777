"""What is asked of a configuration before any Envoy is sent it: the rules that Envoy's own messages carry."""
