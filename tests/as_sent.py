"""JSON compared as it is written: names in their order, numbers by their characters."""

import json


def spelled(text):
    """Return what the text says and how, but for blanks between values and the escapes of characters."""
    return json.loads(text, object_pairs_hook=Members, parse_float=Number, parse_int=Number)


class Members(list):
    """The members of an object. Not equal to an array of pairs."""

    def __eq__(self, other):
        return type(other) is Members and super().__eq__(other)

    __hash__ = None


class Number(str):
    """The characters of a number. Not equal to a string of them."""

    __slots__ = ()

    def __eq__(self, other):
        return type(other) is Number and super().__eq__(other)

    __hash__ = str.__hash__
