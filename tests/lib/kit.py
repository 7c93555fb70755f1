"""Small things that several tests need."""


def lsn(text):
    """An LSN as a number."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
