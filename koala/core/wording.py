"""Numbers of things, as people say them."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """So many of something: 1 picture, 1,200 pictures, 2 processes, 2 people."""
    return f"{number:,} {noun if number == 1 else plural or noun + ('es' if noun.endswith('s') else 's')}"
