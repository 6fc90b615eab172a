"""A text that reprs do not show: a token or a secret in a traceback's locals, a log of arguments or
a debugger stays out of sight. It is no protection of memory.
"""


class Hidden(str):
    """A `str` in all but its `repr`.

    >>> Hidden("the-secret")
    '***'
    >>> Hidden("the-secret") == "the-secret"
    True
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"
