"""A page in a browser on which photos are coloured, and nothing is kept.

`server` serves it, `forms` reads what it sends, `wishes` says what can be asked for, and `painting` makes that.
"""
