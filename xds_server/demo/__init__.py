"""The demo: real Envoys, two versions of a shop, simulated people, and a fault that Serinus has to find."""
