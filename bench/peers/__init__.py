"""Portero beside others that do its job, or a part of it: `make peers`."""
