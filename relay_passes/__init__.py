"""The compiler's passes over TVM's graph IR. They are Relax passes: TVM removed Relay, whose name
the folder keeps because that is the name under which people look for them.

One pass a file; ``pipeline.py`` lists them in order, ``properties.py`` what each requires and
ensures, ``classify.py`` which operator can become shift-add.
"""
