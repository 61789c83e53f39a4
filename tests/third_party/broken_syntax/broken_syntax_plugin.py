"""Is not Python."""

def register(add:
    add("typo", object)
