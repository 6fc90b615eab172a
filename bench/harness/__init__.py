"""Portero in the shape of a public benchmark of gateways: bench/README.md."""
