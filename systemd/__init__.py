"""Portero as services of a machine's systemd: the units, and what installs and upgrades them."""
