"""Text that strangers chose, made fit to stand among ours."""

import re

LONGEST = 80
# Control characters, line separators, and what turns the direction of writing around.
UNSEEMLY = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
# The beginning of an encoded word (RFC 2047), which those who read headers decode to anything, line breaks too.
ENCODED_WORD = re.compile(r"=\?")
# What mail clients turn into a link by themselves.
LINK_LIKE = re.compile(r"://|@|\bwww\.|\w[.。．｡][^\W\d_]{2,}", re.IGNORECASE)


def one_line(text: object) -> str:
    """Return the text on one line: line breaks and other control characters become a space."""
    return " ".join(UNSEEMLY.sub(" ", str(text)).split())


def presentable(text: str, otherwise: str, longest: int = LONGEST) -> str:
    """Return the text on one line and not too long; `otherwise` where it holds what mail clients would make a link of, or decode.

    Anybody can register under a stranger's address and call himself, or his company, what he likes: our mail must not carry his advertisement.
    """
    line = one_line(text)
    if LINK_LIKE.search(line) or ENCODED_WORD.search(line):
        return otherwise
    return line if len(line) <= longest else line[: longest - 1] + "…"
