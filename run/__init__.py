"""`make run`: brings the whole stack up on this machine and takes it down again.

It runs before the virtual environment exists, so it may import the standard library only, and
nothing of the product: the parts it starts are told everything through their environment.
"""
