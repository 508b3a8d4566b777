"""What applications and browsers are told of who is on which version: Envoy's own assignment, as feature flags."""
