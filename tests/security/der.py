"""As much of DER (X.690) as it takes to write keys that no library makes."""


def tlv(tag: int, content: bytes) -> bytes:
    """One value: tag, length, content (section 8.1)."""
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content


def der_integer(value: int) -> bytes:
    """An integer that is not negative."""
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def der_sequence(*members: bytes) -> bytes:
    """A sequence of values."""
    return tlv(0x30, b"".join(members))


def der_bits(content: bytes) -> bytes:
    """A bit string of whole bytes."""
    return tlv(3, b"\0" + content)
